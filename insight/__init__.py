"""Questions about history, answered from the canonical model on any location.

Each answer is a frozen record or an Arrow table; the command line prints the same. Sources are
read through `adapters.restored`, so a copied run answers as the original would.
"""

from ..reading import find_run, open_location, select
from .advise import Advice, advise
from .audit import Audit, audit
from .best import Best, best
from .diff import Difference, RunDiff, diff
from .lineage import Lineage, lineage
from .retain import RetentionPlan, retain
from .retain import apply as apply_retention
from .runs import runs
from .show import RunView, SeriesView, show

__all__ = [
    "Advice",
    "Audit",
    "Best",
    "Difference",
    "Lineage",
    "RetentionPlan",
    "RunDiff",
    "RunView",
    "SeriesView",
    "advise",
    "apply_retention",
    "audit",
    "best",
    "diff",
    "find_run",
    "lineage",
    "open_location",
    "retain",
    "runs",
    "select",
    "show",
]
