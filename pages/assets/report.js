"use strict";
// Sections of the data: numbers [[label, value]], tables [{id, title, columns, rows, note, choices}],
// curves {metric: [[name, steps, values]]}, sweep {metric, params: [[name, values]], scores},
// flow {labels, kinds, links: [[from, to, word]]}, bars {title, labels, series: [[name, values]]}.
const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const toc = document.getElementById("toc");
const charts = [];
const PAGE = 100;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  for (const child of children) element.append(child);
  return element;
}

function section(id, title) {
  const heading = make("h2", { id: id + "-title" }, title);
  const element = make("section", { id, "aria-labelledby": id + "-title" }, heading);
  toc.append(make("li", {}, make("a", { href: "#" + id }, title)));
  main.append(element);
  return element;
}

function shown(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number" && Number.isInteger(value) && Math.abs(value) >= 1e15) return value.toPrecision(6);
  if (typeof value === "number" && !Number.isInteger(value)) return String(Number(value.toPrecision(6)));
  return String(value);
}

// --- colours: read from the style sheet, so that charts follow the theme ------------------------

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

function layout(extra) {
  return Object.assign({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: color("ink"), size: 12 },
    margin: { l: 55, r: 15, t: 35, b: 45 }, height: 340,
    xaxis: { gridcolor: color("line"), zerolinecolor: color("line") },
    yaxis: { gridcolor: color("line"), zerolinecolor: color("line") },
  }, extra);
}

function chart(parent, label, build) {
  const holder = make("div", { class: "chart", role: "img", "aria-label": label });
  parent.append(holder);
  const draw = () => {
    const { traces, extra } = build();
    Plotly.react(holder, traces, layout(extra), { responsive: true, displaylogo: false });
  };
  charts.push(draw);
  draw();
  return draw;
}

// --- tables: sorted, filtered and paged, so that 10,000 rows stay quick --------------------------

function table(parent, spec) {
  let rows = spec.rows;
  let order = null, page = 0, text = "", choice = {};
  const numeric = spec.columns.map((_, i) => spec.rows.some((r) => r[i] !== null) && spec.rows.every((r) => r[i] === null || typeof r[i] === "number"));
  const long = spec.columns.map((_, i) => spec.rows.some((r) => shown(r[i]).length > 40));
  const tools = make("div", { class: "tools" });
  const find = make("input", { type: "search", "aria-label": "Filter " + spec.title, oninput: () => { text = find.value.toLowerCase(); page = 0; refresh(); } });
  tools.append(make("label", {}, "Filter", find));
  for (const name of spec.choices || []) {
    const column = spec.columns.indexOf(name);
    const values = [...new Set(spec.rows.map((r) => shown(r[column])))].sort().slice(0, 500);
    const select = make("select", { onchange: () => { choice[column] = select.value; page = 0; refresh(); } }, make("option", { value: "" }, "all"));
    for (const value of values) select.append(make("option", { value: "=" + value }, value || "(none)"));
    tools.append(make("label", {}, name, select));
  }
  const head = make("tr");
  spec.columns.forEach((name, i) => {
    const button = make("button", { type: "button", onclick: () => {
      order = order && order[0] === i ? [i, -order[1]] : [i, numeric[i] ? -1 : 1];
      [...head.children].forEach((cell, j) => cell.setAttribute("aria-sort", j !== i ? "none" : order[1] > 0 ? "ascending" : "descending"));
      page = 0;
      refresh();
    } }, name);
    head.append(make("th", { scope: "col", "aria-sort": "none", class: numeric[i] ? "number" : "" }, button));
  });
  const body = make("tbody");
  const status = make("span", { role: "status", class: "quiet" });
  const before = make("button", { type: "button", onclick: () => { page--; refresh(); } }, "Previous");
  const after = make("button", { type: "button", onclick: () => { page++; refresh(); } }, "Next");
  parent.append(tools, make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": spec.title },
    make("table", {}, make("thead", {}, head), body)), make("div", { class: "pager" }, before, after, status));

  function matching() {
    let found = rows.filter((r) => (!text || r.some((v) => shown(v).toLowerCase().includes(text)))
      && Object.entries(choice).every(([c, v]) => !v || "=" + shown(r[c]) === v));
    if (order) {
      const [column, sign] = order;
      found = found.slice().sort((a, b) => {
        const x = a[column], y = b[column];
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
      });
    }
    return found;
  }

  function refresh() {
    const found = matching();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    body.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((r) =>
      make("tr", {}, ...r.map((value, i) => {
        const mark = { yes: "good", "=": "good", equal: "good", no: "bad", failed: "bad", killed: "bad", "*": "bad", "!": "bad", "-": "bad", partial: "warn" }[value] || "";
        const cell = make("td", { class: (numeric[i] ? "number " : long[i] ? "long " : "") + mark });
        if (typeof value === "string" && /^https?:\/\//.test(value)) cell.append(make("a", { href: value, rel: "noreferrer" }, value));
        else cell.append(shown(value));
        return cell;
      }))));
    status.textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}` + (pages > 1 ? `, page ${page + 1} of ${pages.toLocaleString("en")}` : "");
    before.disabled = page === 0;
    after.disabled = page >= pages - 1;
    before.hidden = after.hidden = pages === 1;
  }
  refresh();
}

// --- sections ------------------------------------------------------------------------------------

if (data.numbers) {
  const list = make("dl", { class: "numbers" });
  for (const [label, value] of data.numbers) list.append(make("div", {}, make("dt", {}, label), make("dd", {}, typeof value === "number" ? value.toLocaleString("en") : shown(value))));
  section("overview", "Overview").append(list);
}

if (data.bars) {
  const place = section("bars", data.bars.title);
  chart(place, data.bars.title, () => ({
    traces: data.bars.series.map(([name, values], i) => ({ type: "bar", name, x: data.bars.labels, y: values, marker: { color: [color("accent"), color("good"), color("warn")][i % 3] } })),
    extra: { barmode: "group", xaxis: { type: "category" }, legend: { orientation: "h", y: 1.15 } },
  }));
}

if (data.curves && Object.keys(data.curves).length) {
  const place = section("curves", "Curves");
  let metric = Object.keys(data.curves)[0];
  const select = make("select", { onchange: () => { metric = select.value; draw(); } });
  for (const name of Object.keys(data.curves)) select.append(make("option", { value: name }, name));
  place.append(make("div", { class: "tools" }, make("label", {}, "Metric", select)));
  if (data.curves_note) place.append(make("p", { class: "quiet" }, data.curves_note));
  const draw = chart(place, "Curves of the chosen metric", () => ({
    traces: data.curves[metric].map(([name, steps, values]) => ({ type: "scatter", mode: values.length > 1 ? "lines" : "markers", name, x: steps, y: values })),
    extra: { showlegend: place.clientWidth > 640, title: { text: metric, font: { size: 13 } }, height: 420, xaxis: { title: { text: "step" }, gridcolor: color("line") } },
  }));
}

if (data.sweep) {
  const place = section("sweep", "Sweep");
  place.append(make("p", { class: "quiet" }, `${data.sweep.note}, coloured by ${data.sweep.metric}. Drag along an axis to select; scroll sideways on a small screen.`));
  const wide = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Sweep" });
  const holder = make("div", { style: `min-width: ${90 * (data.sweep.params.length + 1) + 150}px` });
  wide.append(holder);
  place.append(wide);
  chart(holder, "Parallel coordinates of params and " + data.sweep.metric, () => ({
    traces: [{
      type: "parcoords",
      line: { color: data.sweep.scores, colorscale: "Viridis", showscale: true },
      labelfont: { color: color("ink") }, tickfont: { color: color("ink") }, rangefont: { color: "rgba(0,0,0,0)" },
      dimensions: data.sweep.params.concat([[data.sweep.metric, data.sweep.scores]]).map(([name, values]) => axis(name, values)),
    }],
    extra: { height: 420, margin: { l: 90, r: 60, t: 60, b: 30 } },
  }));
}

// An axis of the sweep: words in order; numbers as they are, or as their logarithms where most of
// them span two orders of magnitude; runs without the param below all others.
function axis(name, values) {
  const unset = "(unset)";
  if (!values.every((v) => v === null || typeof v === "number")) {
    const words = [...new Set(values.map((v) => (v === null ? unset : shown(v))))].sort();
    return { label: name, values: values.map((v) => words.indexOf(v === null ? unset : shown(v))), tickvals: words.map((_, i) => i), ticktext: words.map((w) => w.slice(0, 24)) };
  }
  const known = values.filter((v) => v !== null);
  const sorted = [...known].sort((a, b) => a - b);
  const low = sorted[0], high = sorted[sorted.length - 1];
  const share = (part) => sorted[Math.floor((sorted.length - 1) * part)];
  const logarithmic = low > 0 && share(0.9) / share(0.1) >= 100;
  const place = (v) => (logarithmic ? Math.log10(v) : v);
  const bottom = place(low), span = place(high) - bottom || 1;
  let ticks = [...new Set(sorted)];
  if (ticks.length > 8) {
    ticks = [...Array(6).keys()].map((i) => bottom + (span * i) / 5).map((v) => (logarithmic ? 10 ** v : v));
  }
  const tickvals = ticks.map(place), ticktext = ticks.map((v) => String(Number(v.toPrecision(3))));
  const absent = bottom - span * 0.12;
  if (known.length < values.length) { tickvals.unshift(absent); ticktext.unshift(unset); }
  return { label: name, values: values.map((v) => (v === null ? absent : place(v))), tickvals, ticktext };
}

for (const spec of data.tables || []) {
  const place = section(spec.id, spec.title);
  if (spec.note) place.append(make("p", { class: "quiet" }, spec.note));
  if (spec.rows.length) table(place, spec);
  else place.append(make("p", {}, spec.empty || "Nothing."));
}

if (data.flow && data.flow.links.length) {
  const place = section("lineage", "Lineage");
  const palette = { run: "accent", "model version": "good", "data set": "warn", commit: "quiet", artifact: "accent" };
  chart(place, "Lineage from code and data through runs to models", () => ({
    traces: [{
      type: "sankey", arrangement: "snap",
      node: { label: data.flow.labels, color: data.flow.kinds.map((k) => color(palette[k] || "quiet")), pad: 14, thickness: 14, line: { width: 0 } },
      link: { source: data.flow.links.map((l) => l[0]), target: data.flow.links.map((l) => l[1]), value: data.flow.links.map(() => 1), label: data.flow.links.map((l) => l[2]), color: color("line") },
    }],
    extra: { height: Math.min(1200, 160 + 22 * data.flow.labels.length) },
  }));
}

// --- theme ---------------------------------------------------------------------------------------

const button = document.getElementById("theme");
const system = window.matchMedia("(prefers-color-scheme: dark)");
function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : system.matches;
}
function showTheme() {
  button.textContent = isDark() ? "Light" : "Dark";
  button.setAttribute("aria-pressed", String(isDark()));
  charts.forEach((draw) => draw());
}
button.addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; showTheme(); });
system.addEventListener("change", showTheme);
showTheme();
document.documentElement.dataset.ready = "yes";
