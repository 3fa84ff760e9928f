"""What a published page must not show unless it is asked for: people, hosts, paths, credentials."""

from __future__ import annotations

import re
from typing import Literal

Show = Literal["user", "host", "paths", "urls"]

_PATH = re.compile(r"(?<![\w:/.])(?:~|[A-Za-z]:(?=[\\/])|(?=/))(?:[\\/][^\s\\/:;,\"'|<>()]+){2,}[\\/]?")
_FILE_URL = re.compile(r"\bfile:/{0,3}[^\s\"'<>()]+", re.IGNORECASE)
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>()]+", re.IGNORECASE)
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
# Tokens by the prefixes that their issuers document (GitHub, Hugging Face, OpenAI, AWS, Slack,
# Google, GitLab), and NAME=value where the name says that it is secret.
_TOKEN = re.compile(
    r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|hf_\w{20,}|sk-[\w-]{20,}|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}|glpat-[\w-]{15,})"
)
_ASSIGNED = re.compile(
    r"((?:[\w-]*(?:token|secret|password|passwd|pwd|api[_-]?key|credential)[\w-]*)\s*[=: ]\s*)[^\s,;&\"']+",
    re.IGNORECASE,
)
SECRET_NAME = re.compile(r"token(?!i)|secret|passw|pwd|api[_-]?key|credential", re.IGNORECASE)
REMOVED = "[removed]"


def text(value: str, *, show: frozenset[str] = frozenset(), names: frozenset[str] = frozenset()) -> str:
    """`value` without credentials; without addresses, paths and the given user and host names unless shown."""
    value = _TOKEN.sub(REMOVED, value)
    value = _ASSIGNED.sub(rf"\1{REMOVED}", value)
    value = re.sub(r"(\w+://)[^/\s@]+@", r"\1", value)
    if "urls" not in show:
        value = _URL.sub(lambda m: m[0] if _is_public(m[0]) else REMOVED, value)
    if "paths" not in show:
        value = _FILE_URL.sub(lambda m: "…/" + _base(m[0]), value)
        value = _PATH.sub(lambda m: "…/" + _base(m[0]), value)
    if "user" not in show:
        value = _EMAIL.sub(REMOVED, value)
    for name in names:
        value = re.sub(rf"(?<![\w]){re.escape(name)}(?![\w])", REMOVED, value)
    return value


def _base(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _is_public(url: str) -> bool:
    """Whether a URL is one that anybody may see: a known public hub, without a query."""
    host = re.sub(r"^[a-z][a-z0-9+.-]*://", "", url, flags=re.IGNORECASE).partition("/")[0].lower()
    return host in {
        "github.com",
        "gitlab.com",
        "huggingface.co",
        "wandb.ai",
        "www.comet.com",
        "doi.org",
        "arxiv.org",
    }
