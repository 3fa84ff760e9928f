"""The Comet leg: to offline archives, which need no account, and back."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator

from .stage import Stage

ARCHIVE, ZIPS, BACK = "archive:archive", "comet:comet-zips", "archive:comet-back"


def comet_zips(stage: Stage) -> Iterator[str]:
    """The runs as zips that `comet upload` takes, and as an archive again (zips hold no registry)."""
    runs = stage.facts["runs"]
    stage.outgrow("copy", ARCHIVE, ZIPS)
    stage.outgrow("check", ARCHIVE, ZIPS, "--deep")
    zips = sorted((stage.folder / "comet-zips").glob("*.zip"))
    stage.expect(len(zips) == runs, f"{len(zips)} zips for {runs} runs")
    again = stage.outgrow_json("copy", ARCHIVE, ZIPS)
    stage.expect(again.get("counts", {}).get("copied", 0) == 0, "a second copy wrote zips again")
    damaged = [path.name for path in zips if zipfile.ZipFile(path).testzip() is not None]
    stage.expect(not damaged, f"damaged zips: {damaged}")
    stage.outgrow("copy", ZIPS, BACK)
    stage.outgrow("check", ZIPS, BACK, "--deep")
    size = sum(path.stat().st_size for path in zips)
    yield f"{len(zips)} zips, {size / 1e6:.1f} MB, checked point by point; `comet upload comet-zips/*.zip` sends them"
    yield f"from the zips back to {BACK}: nothing lost on the way"
