"""One self-contained HTML page: data, style, script and charts in a single file, no network.

The charts are Plotly's, inlined from its Python package (the extra `report`). Data is embedded as
JSON that cannot end its own element; the script writes it with `textContent` only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import jinja2

from .. import __version__
from ..errors import MissingSDK


def render(title: str, subtitle: str, data: Mapping[str, Any]) -> str:
    """The page. `data` holds the sections (see `assets/report.js`); what is absent is not shown.

    Raises `MissingSDK` where Plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise MissingSDK(
            "the report page needs Plotly for its charts", hint="pip install 'outgrow[report]'"
        ) from error
    assets = files(__package__) / "assets"
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (assets / "report.html.j2").read_text("utf-8")
    )
    return template.render(
        title=title,
        subtitle=subtitle,
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=(assets / "report.css").read_text("utf-8"),
        script=(assets / "report.js").read_text("utf-8"),
        plotly=get_plotlyjs(),
        data=embed(data),
    )


def embed(data: Any) -> str:
    """JSON that is safe within a script element. NaN and the infinities become null."""
    text = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(k): _finite(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(v) for v in data]
    return data
