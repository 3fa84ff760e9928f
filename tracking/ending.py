"""How the end of a program or a block is the end of its run."""

from __future__ import annotations

from typing import Literal

Ending = Literal["finished", "failed", "killed"]


def ending(error: BaseException | None) -> Ending:
    """The status of a run whose work ended with this exception (None: with none).

    `KeyboardInterrupt` is `killed`, and so is the `SystemExit` that a framework makes of it;
    `SystemExit` without an error code is `finished`.
    """
    if error is None:
        return "finished"
    # Lightning raises the second, a SystemExit, where the process was sent SIGTERM.
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "SIGTERMException":
        return "killed"
    if isinstance(error, SystemExit):
        if not error.code:
            return "finished"
        return "killed" if isinstance(error.__context__, KeyboardInterrupt) else "failed"
    return "failed"
