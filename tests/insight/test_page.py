"""The report page, opened in a real headless Chromium."""

import html
import json
import re
import shutil
import subprocess

import pytest
from outgrow import pages
from outgrow.insight.page import report
from outgrow.model import Status
from planted import curve, registered, run, source

pytest.importorskip("plotly", reason="the extra `report` is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def opened(page, tmp_path, *options):
    """The page's DOM after its script has run, with no network."""
    path = tmp_path / "page.html"
    path.write_text(page, "utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
    command = [
        CHROMIUM,
        *flags.split(),
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=10000",
        *options,
        "--dump-dom",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def text_of(dom):
    body = re.sub(r"(?s)<(script|style)\b.*?</\1>", " ", dom)
    return html.unescape(re.sub(r"<[^>]+>", " ", body))


def small_history():
    runs = [
        run(i, params={"lr": 10.0**-i, "kind": "ab"[i % 2]}, summary={"eval/accuracy": i / 10})
        for i in range(1, 6)
    ]
    runs.append(
        run(
            7,
            name="<img src=x onerror=alert(1)></script>",
            status=Status.FAILED,
            tags={"project": "</script><b>"},
        )
    )
    return source(*runs, registry=[registered({"run": "r0003", "aliases": ["production"]})])


@needs_chromium
def test_every_section_is_drawn_and_hostile_names_stay_text(tmp_path):
    dom = opened(report(small_history()), tmp_path)
    assert 'data-ready="yes"' in dom
    for section in ("overview", "runs", "audit", "registry", "sweep", "lineage"):
        assert f'<section id="{section}"' in dom
    shown = text_of(dom)
    assert "digits-3" in shown
    assert "<img src=x onerror=alert(1)></script>" in shown
    assert "<img src=x" not in dom
    assert dom.count('class="main-svg"') >= 2  # Plotly drew
    assert 'aria-sort="none"' in dom


@needs_chromium
def test_ten_thousand_rows_are_paged(tmp_path):
    rows = [[f"r{i}", i / 7, "finished"] for i in range(10_000)]
    spec = {
        "id": "runs",
        "title": "Runs",
        "columns": ["run", "score", "status"],
        "rows": rows,
        "choices": ["status"],
    }
    dom = opened(pages.render("t", "s", {"tables": [spec]}), tmp_path)
    assert dom.count("<tr>") == 101
    assert "10,000 of 10,000, page 1 of 100" in text_of(dom)


def test_the_best_are_shown_whichever_way_is_better_and_params_by_what_they_explain():
    runs = [
        run(i, params={"noise": (i * 7) % 5, "lr": 10.0 ** -(i % 4)}, summary={"eval/loss": 10.0 ** (i % 4) + i / 1e6})
        for i in range(40)
    ]  # fmt: skip

    def shown(**options):
        page = report(source(*runs, points={r.id: [curve("eval/loss", [1.0])] for r in runs}), **options)
        return json.loads(re.search(r'(?s)<script type="application/json" id="data">(.*?)</script>', page)[1])

    data = shown()
    assert data["curves_note"] == "The 30 runs with the lowest eval/loss."
    assert data["curves"]["eval/loss"][0][0] == "digits-0"
    assert [name for name, _ in data["sweep"]["params"]] == ["lr", "noise"]
    assert shown(mode="max")["curves"]["eval/loss"][0][0] == "digits-39"


def test_a_page_loads_nothing_from_elsewhere():
    page = report(small_history())
    assert "default-src 'none'" in page
    outside = re.sub(r"(?s)<script>.*?</script>", "", page)
    assert not re.search(r'(?:src|href)="(?!#)', outside)
    assert "@import" not in page.partition("<body>")[0]


def test_data_cannot_end_its_script_element():
    hostile = {
        "a": "</script><script>alert(1)</script>",
        "b": [float("nan"), float("inf"), 1.5],
        "c": "\u2028",
    }
    text = pages.embed(hostile)
    assert "<" not in text
    assert json.loads(text) == {"a": hostile["a"], "b": [None, None, 1.5], "c": "\u2028"}
