"""What can go wrong between here and a hub, each with its own words and what to do.

Who may not read, and what does not exist, is wrong about the input (exit code 3). What a server or
the way there failed to do may work later (exit code 4).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llamatools.errors import BadInput, IOFailed, LlamatoolsError
from llamatools.hub.library import Settings
from llamatools.hub.name import RepositoryName
from llamatools.text import safe


@dataclass(frozen=True)
class Place:
    """What is asked for, and of whom: what every message names."""

    name: RepositoryName
    settings: Settings
    with_token: bool
    """A token goes along."""

    def at(self, file: str | None = None) -> str:
        return safe(f"{self.name}/{file}" if file else self.name)

    @property
    def host(self) -> str:
        return safe(self.settings.host)

    def failed(
        self, file: str | None, what: str, hint: str | None = None, *, there: str | None = None
    ) -> IOFailed:
        """`there`: the host that it was, where the one asked led to another."""
        elsewhere = there not in (None, self.settings.host)
        who = f"{self.host} redirects to {safe(there)}, which" if elsewhere else self.host
        return IOFailed(f"{self.at(file)}: {who} {what}", hint=hint)


@dataclass(frozen=True)
class Failure:
    """An error, and whether the same request may go better at once."""

    error: LlamatoolsError
    again: bool = False
    wait: float = 0.0
    """Seconds that the server wants to be left alone."""


class NoRepository(BadInput):
    """Nothing of that name is there, or nothing that may be seen."""


_DISABLED = "Access to this resource is disabled."
AGAIN_LATER = "try again later"


def of_status(place: Place, file: str | None, status: int, headers: Mapping[str, str]) -> Failure:
    """An answer that is not what was asked for. The hub's own codes tell more than numbers."""
    code = headers.get("X-Error-Code", "")
    if code == "GatedRepo":
        return Failure(_gated(place))
    if code == "RevisionNotFound":
        return Failure(_no_revision(place))
    if code == "EntryNotFound":
        return Failure(_no_file(place, file))
    if code == "RepoNotFound":
        return Failure(_no_repository(place))
    words = headers.get("X-Error-Message", "")
    if words == _DISABLED:
        return Failure(BadInput(f"{place.at()}: {place.host} has disabled access to it"))
    known = _BY_STATUS.get(status)
    if known is not None:
        return Failure(known(place, file))
    said = f": {safe(words, 120)}" if words else ""
    if status == 429:
        return _too_many(place, file, headers)
    if status == 408 or status >= 500:
        error = place.failed(file, f"failed with {status}{said}", AGAIN_LATER)
        return Failure(error, again=True, wait=_seconds(headers) or 0.0)
    return Failure(place.failed(file, f"answered {status}{said}"))


def _unauthorised(place: Place, file: str | None) -> BadInput:
    if place.with_token:
        return BadInput(
            f"{place.at()}: {place.host} does not accept the token that was sent (401)",
            hint="log in again with `hf auth login`, or set HF_TOKEN to a valid token",
        )
    if file:  # the listing was given to anyone
        return _gated(place)
    return _no_repository(place)


def _forbidden(place: Place, file: str | None) -> BadInput:
    page = f"{place.settings.endpoint}/{place.name.id}"
    if not place.with_token:
        return BadInput(
            f"{place.at(file)}: {place.host} forbids it to who sends no token (403)",
            hint=f"if {page} wants a licence accepted, accept it, and {_log_in(place)}",
        )
    return BadInput(
        f"{place.at(file)}: {place.host} forbids it to the token that was sent (403)",
        hint=f"has its account access to {page}, and the token the right to read it? gated "
        "repositories need a right of their own",
    )


def _gated(place: Place) -> BadInput:
    page = f"{place.settings.endpoint}/{place.name.id}"
    if place.with_token:
        return BadInput(
            f"{place.at()}: gated, and the account of the token that was sent has no access",
            hint=f"accept its licence at {page}; the token needs the right to read gated "
            "repositories",
        )
    return BadInput(
        f"{place.at()}: gated: {place.host} gives it to accounts that accepted its licence, "
        "and no token was sent",
        hint=f"accept the licence at {page}, and {_log_in(place)}",
    )


def _log_in(place: Place) -> str:
    how = "log in with `hf auth login` or set HF_TOKEN"
    if place.settings.token_withheld:
        how += "; HF_HUB_DISABLE_IMPLICIT_TOKEN keeps a token from being sent"
    return how


def _no_repository(place: Place, file: str | None = None) -> BadInput:
    private = "" if place.with_token else f", or {_log_in(place)} if it is private"
    return NoRepository(
        f"{place.at()}: no such file or folder here, and no such repository at {place.host}",
        hint=f"check the name{private}",
    )


def _no_revision(place: Place) -> BadInput:
    return BadInput(
        f"{place.at()}: the repository {place.name.id} at {place.host} has no revision "
        f"{safe(place.name.revision)}",
        hint="a revision is a branch, a tag or a whole commit: org/name@main",
    )


def _no_file(place: Place, file: str | None) -> BadInput:
    return BadInput(
        f"{place.at(file)}: {place.host} lists the file and does not have it",
        hint="has it been removed just now? try again",
    )


_BY_STATUS: Mapping[int, Callable[[Place, str | None], BadInput]] = {
    401: _unauthorised,
    403: _forbidden,
    404: lambda place, file: _no_file(place, file) if file else _no_repository(place),
}


def _too_many(place: Place, file: str | None, headers: Mapping[str, str]) -> Failure:
    wait = _seconds(headers)
    told = f", and wants {wait:,.0f} seconds of peace" if wait else ""
    hint = "try again later" if place.with_token else f"try again later, or {_log_in(place)}: " \
        "known accounts may ask more often"  # fmt: skip
    error = place.failed(file, f"says that there were too many requests (429){told}", hint)
    return Failure(error, again=True, wait=wait or 0.0)


_RESET = re.compile(r";\s*t\s*=\s*(\d{1,8})\b")
"""`RateLimit: "api";r=0;t=55`: the window ends in 55 seconds."""


def _seconds(headers: Mapping[str, str]) -> float | None:
    """How long the server wants to be left alone, where it says so in seconds."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 9:
        return float(text)
    reset = _RESET.search(headers.get("RateLimit", ""))
    return float(reset[1]) if reset else None
