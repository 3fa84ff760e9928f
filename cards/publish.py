"""Publishing a card to a Hugging Face repository: one commit on a known head, or a pull request.

The front matter and body are our own (`front_matter`, `blocks`); of huggingface_hub only the
client's calls are used, not its card classes, which lose comments, order and results.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, CredentialsError, OutgrowError, Rejected, Terminal, Unavailable
from .card import README, SIDECAR, Card, Written, compose

if TYPE_CHECKING:
    from pathlib import Path

    from huggingface_hub import HfApi


class StaleParent(OutgrowError, Terminal):
    """The repository has moved on since the card was composed."""

    exit_code = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """What was pushed, or with `dry_run` would be."""

    repo: str
    url: str | None
    changed: list[str]
    diff: str
    written: Written
    pull_request: bool = False
    created: bool = False
    uploaded: list[str] = field(default_factory=list)


def push(
    card: Card,
    repo: str,
    *,
    create: bool = False,
    private: bool = True,
    pull_request: bool = False,
    dry_run: bool = False,
    revision: str = "main",
    extra_files: Mapping[str, Path] | None = None,
    api: HfApi | None = None,
) -> Push:
    """Compose the card with what the repository's head holds, and commit all of it at once.

    `extra_files`: repository path → local file, for the model itself (LFS or Xet as the Hub
    decides; what is there already is not sent again). The endpoint and token are huggingface_hub's
    own (`HF_ENDPOINT`, `HF_TOKEN`, its login file).

    Raises `CredentialsError` (401, 403, gated), `ConfigError` (no such repository, without
    `create`), `StaleParent` (412), `Unavailable`, `blocks.CardConflict`.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = api or HfApi()
    created = False
    with _typed(repo):
        if not api.repo_exists(repo, repo_type=card.kind):
            if not create:
                raise ConfigError(
                    f"there is no {card.kind} repository {repo!r} that this token can see",
                    hint="add --create to create it, or log in with a token that may see it: hf auth login",
                )
            created = True
            if not dry_run:
                api.create_repo(repo, repo_type=card.kind, private=private, exist_ok=True)
        head, existing = (None, {}) if created and dry_run else _head(api, repo, card.kind, revision)
    written = compose(card, existing)
    changed = {p: d for p, d in written.files.items() if existing.get(p) != d}
    shown = difference(existing, changed)
    result: dict[str, Any] = {
        "repo": repo,
        "written": written,
        "diff": shown,
        "created": created,
        "changed": sorted(changed),
    }
    if dry_run or not (changed or extra_files):
        return Push(url=None, **result)
    operations = [CommitOperationAdd(path, data) for path, data in changed.items()]
    operations += [CommitOperationAdd(path, str(local)) for path, local in (extra_files or {}).items()]
    with _typed(repo):
        info = api.create_commit(
            repo,
            operations,
            repo_type=card.kind,
            commit_message=f"Update the card of {card.title}",
            revision=revision,
            parent_commit=head,
            create_pr=pull_request,
        )
    return Push(
        url=info.pr_url or info.commit_url,
        pull_request=pull_request,
        uploaded=sorted(extra_files or {}),
        **result,
    )


def _head(api: HfApi, repo: str, kind: str, revision: str) -> tuple[str | None, dict[str, bytes]]:
    """The head commit, and the files of the card as they are in that commit."""
    import tempfile
    from pathlib import Path

    info = api.repo_info(repo, repo_type=kind, revision=revision)
    head = info.sha
    names = {s.rfilename for s in getattr(info, "siblings", None) or []}
    existing = {}
    with tempfile.TemporaryDirectory(prefix="outgrow-card-") as folder:
        # Figures are compared by the Hub itself; of the small text files the content is needed.
        for name in (README, SIDECAR, "croissant.json"):
            if name in names:
                path = api.hf_hub_download(repo, name, repo_type=kind, revision=head, local_dir=folder)
                existing[name] = Path(path).read_bytes()
    return head, existing


def difference(existing: Mapping[str, bytes], changed: Mapping[str, bytes]) -> str:
    """A unified diff of the text files, and a line for each of the others."""
    parts = []
    for path in (README, SIDECAR):
        if path in changed:
            before = existing.get(path, b"").decode("utf-8", "replace").splitlines(keepends=True)
            after = changed[path].decode("utf-8", "replace").splitlines(keepends=True)
            parts += list(difflib.unified_diff(before, after, f"a/{path}", f"b/{path}"))
    parts += [
        f"{'~' if path in existing else '+'} {path} ({len(data)} bytes)\n"
        for path, data in changed.items()
        if path not in (README, SIDECAR)
    ]
    return "".join(parts)


@contextmanager
def _typed(repo: str) -> Iterator[None]:
    """huggingface_hub's errors as ours. Its messages are kept; they hold no token."""
    from huggingface_hub import errors

    try:
        yield
    except OutgrowError:
        raise
    except (errors.GatedRepoError, errors.LocalTokenNotFoundError) as error:
        raise CredentialsError(
            f"no access to {repo!r}: {_first_line(error)}",
            hint="ask for access, and log in: hf auth login (or set HF_TOKEN)",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CredentialsError(
            f"{repo!r} does not exist or the token may not see it",
            hint="check the name, and log in: hf auth login (or set HF_TOKEN)",
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status == 412:
            raise StaleParent(
                f"{repo!r} has a newer commit than the one this card was composed with",
                hint="run the same command again: it reads the new head first",
            ) from error
        if status in (401, 403):
            raise CredentialsError(
                f"{repo!r} refused the token: {_first_line(error)}",
                hint="log in with a token that may write: hf auth login",
            ) from error
        if status == 429 or status >= 500 or status == 0:
            raise Unavailable(f"the Hub answered {status} for {repo!r}", hint="try again later") from error
        raise Rejected(f"the Hub refused the commit to {repo!r}: {_first_line(error)}") from error
    except errors.HFValidationError as error:
        raise ConfigError(
            f"{repo!r} is not the name of a repository: {_first_line(error)}", hint="write OWNER/NAME"
        ) from error
    except Exception as error:
        # The client's HTTP library is its own choice (httpx, httpx2): told by the class they share by name.
        transport = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
        if not transport and not isinstance(error, OSError):
            raise
        raise Unavailable(
            f"the Hub cannot be reached: {_first_line(error)}", hint="check HF_ENDPOINT and the network"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
