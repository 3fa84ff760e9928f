"""A copy of its own process, to be killed: `python wandb_copy.py RUNS STEPS TARGET LEDGER`."""

from __future__ import annotations

import sys

from outgrow import migrate
from outgrow.testing import records

if __name__ == "__main__":
    runs, steps, target, ledger = sys.argv[1:]
    report = migrate.copy(records.history(int(runs), int(steps)), target, ledger=ledger)
    sys.exit(0 if report.state == "done" and not report.failures else 3)
