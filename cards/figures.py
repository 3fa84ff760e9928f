"""Training curves as PNG images, with the registered checkpoint marked."""

from __future__ import annotations

import io
import re

import numpy as np

from ..reading import Floats

MAX_POINTS = 2_000


def file_name(metric: str) -> str:
    """A safe name for the metric's figure."""
    return "figures/" + re.sub(r"[^\w.-]+", "_", metric).strip("._")[:80] + ".png"


def curve_png(metric: str, steps: Floats, values: Floats, checkpoint: float | None) -> bytes:
    """The curve over its steps. Deterministic: the same points give the same bytes."""
    from matplotlib.figure import Figure

    keep = _thin(values)
    figure = Figure(figsize=(6.4, 3.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps[keep], values[keep], color="#3b6fb6", linewidth=1.5)
    if checkpoint is not None:
        at = int(np.searchsorted(steps, checkpoint, "right")) - 1
        if at >= 0 and np.isfinite(values[at]):
            axes.axvline(checkpoint, color="#b6553b", linewidth=1, linestyle="--")
            axes.plot([steps[at]], [values[at]], "o", color="#b6553b")
            axes.annotate(
                f"checkpoint: {values[at]:.4g}",
                (steps[at], values[at]),
                textcoords="offset points",
                xytext=(6, 6),
                color="#b6553b",
            )
    # A `$` in a name would start a formula.
    axes.set_title(metric.replace("$", r"\$"), fontsize=10)
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _thin(values: Floats) -> slice:
    return slice(None, None, max(1, len(values) // MAX_POINTS))
