"""The version of the code: git's commit, branch and uncommitted difference."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from ...model import CodeVersion

DIFF_PATH = "code/uncommitted.diff"
_TIMEOUT = 5.0

# Words that name a secret, followed by what may be one; and the shapes of well-known tokens.
_NAMED = re.compile(
    r"""((?:[\w.-]*(?:pass(?:word|wd)?|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential)[\w.-]*)
    ["']?\s*[:=]\s*)(["']?)[^\s"'#,;]{4,}\2""",
    re.IGNORECASE | re.VERBOSE,
)
_SHAPED = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_\w{20,}\b|\bglpat-[\w-]{16,}|\bhf_\w{20,}\b|\bsk-[\w-]{20,}"
    r"|\bxox[abprs]-[\w-]{10,}|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*|(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"
)
_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)


def without_secrets(text: str) -> str:
    """The text with what looks like a secret replaced by `***`."""
    text = _BLOCK.sub("*** private key ***", text)
    text = _NAMED.sub(r"\1\2***\2", text)
    return _SHAPED.sub("***", text)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def entry_point() -> str | None:
    """The script or module that runs."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return f"-m {spec.name}"
    return getattr(main, "__file__", None)


def code(folder: Path, diff_limit: int) -> tuple[CodeVersion | None, str | None]:
    """The code's version and the uncommitted difference without secrets; None outside a git checkout."""
    head = _git(folder, "rev-parse", "HEAD", "--abbrev-ref", "HEAD")
    if head is None:
        return None, None
    commit, _, branch = head.strip().partition("\n")
    remote = (_git(folder, "config", "--get", "remote.origin.url") or "").strip()
    status = _git(folder, "status", "--porcelain", "--untracked-files=no") or ""
    diff = None
    if status and diff_limit:
        diff = without_secrets(_git(folder, "diff", "HEAD", "--no-color", "--no-ext-diff") or "")
        if len(diff) > diff_limit:
            diff = diff[:diff_limit] + f"\n… cut after {diff_limit} of {len(diff)} characters\n"
    version = CodeVersion(
        repository=re.sub(r"(?<=://)[^/@]*@", "", remote) or None,
        commit=commit,
        branch=None if branch in ("", "HEAD") else branch,
        dirty=bool(status),
        diff=DIFF_PATH if diff else None,
        entry_point=entry_point(),
    )
    return version, diff
