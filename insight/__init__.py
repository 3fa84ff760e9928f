"""Questions about history, answered from the canonical model on any location.

Each answer is a frozen record or an Arrow table; the command line prints the same. Sources are
read through `adapters.origin.restored`, so a copied run answers as the original would.
"""

from ..reading import find_run, open_location, select
from .best import Best, best
from .diff import Difference, RunDiff, diff
from .lineage import Lineage, lineage
from .runs import runs
from .show import RunView, SeriesView, show

__all__ = [
    "Best",
    "Difference",
    "Lineage",
    "RunDiff",
    "RunView",
    "SeriesView",
    "best",
    "diff",
    "find_run",
    "lineage",
    "open_location",
    "runs",
    "select",
    "show",
]
