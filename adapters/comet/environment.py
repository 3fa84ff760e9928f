"""Code and environment as Comet itself records and shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...model import CodeVersion, Environment


def _text(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


def code_of(git: Mapping[str, Any], file_name: str | None) -> CodeVersion | None:
    """Git metadata and the started file as the SDK logs them."""
    code = CodeVersion(
        repository=_text(git.get("origin")),
        commit=_text(git.get("parent")),
        branch=_text(git.get("branch")),
        entry_point=_text(file_name),
    )
    return code if code != CodeVersion() else None


def environment_of(system: Mapping[str, Any], packages: Iterable[str]) -> Environment | None:
    """System details and packages as the SDK logs them."""
    command = system.get("command") or []
    environment = Environment(
        python=_text(system.get("python_version")),
        packages=dict(_package(line) for line in packages),
        os=_text(system.get("os")),
        host=_text(system.get("hostname")),
        command=command.split() if isinstance(command, str) else [str(word) for word in command],
        cpu=_text(system.get("processor")),
        variables={str(k): str(v) for k, v in (system.get("env") or {}).items()},
    )
    return environment if environment != Environment() else None


def _package(line: str) -> tuple[str, str]:
    name, _, version = line.partition("==")
    return name.strip(), version.strip()


def system_details(environment: Environment, user: str | None) -> dict[str, Any]:
    """The payload of a `system_details` message: what Comet shows of an environment."""
    python = environment.python or ""
    return {
        "command": environment.command,
        "env": environment.variables,
        "hostname": environment.host or "",
        "ip": "",
        "machine": "",
        "os": environment.os or "",
        "os_release": "",
        "os_type": "",
        "pid": 0,
        "processor": environment.cpu or "",
        "python_exe": "",
        "python_version": python,
        "python_version_verbose": python,
        "user": user or "",
    }


def git_metadata(code: CodeVersion) -> dict[str, Any]:
    """The payload of a `git_metadata` message."""
    return {
        "user": None,
        "root": None,
        "branch": code.branch,
        "parent": code.commit,
        "origin": code.repository,
    }
