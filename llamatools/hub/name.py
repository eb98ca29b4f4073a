"""Names of repositories: org/name, or org/name@revision."""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_REVISION = "main"

_WORD = r"[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?P<id>{_WORD}/{_WORD})(?:@(?P<revision>[\w./+-]{{1,200}}))?", re.ASCII)
_ADDRESS = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)?"
    rf"(?P<id>{_WORD}/{_WORD})(?:/(?:tree|blob|resolve)/(?P<revision>[\w.+-]{{1,200}})(?:/.*)?)?/?",
    re.ASCII,
)
"""A name as pages have it in their address, or with a slash at its end."""
_NEVER = ("--", "..")
"""In no repository's name, and in no revision that git takes."""


@dataclass(frozen=True)
class RepositoryName:
    """A repository and a branch, tag or commit of it."""

    id: str
    """org/name"""
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        return self.id if self.revision == DEFAULT_REVISION else f"{self.id}@{self.revision}"


def parse_name(text: str) -> RepositoryName | None:
    """The repository that `text` names; None where it has not the form of such a name."""
    match = _NAME.fullmatch(text)
    if match is None or match["id"].endswith(".git") or any(n in match["id"] for n in _NEVER):
        return None
    revision = match["revision"]
    if revision is None:
        return RepositoryName(match["id"])
    if ".." in revision or revision.startswith(("/", "-", ".")) or revision.endswith("/"):
        return None
    return RepositoryName(match["id"], revision)


def meant(text: str) -> RepositoryName | None:
    """The repository that `text` is the address of, or nearly the name; None where it is not."""
    match = _ADDRESS.fullmatch(text[:1000])
    if match is None:
        return None
    revision = match["revision"]
    return parse_name(match["id"].removesuffix(".git") + (f"@{revision}" if revision else ""))
