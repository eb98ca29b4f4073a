"""What is used of huggingface_hub, and nothing of it before a repository is asked for.

Its settings hold here as everywhere: endpoint, token, cache, offline, proxies, timeouts. Its
session is requests' before version 1 and httpx's from then on; `stream` makes one of the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from llamatools._version import __version__
from llamatools.errors import UsageError
from llamatools.hub.name import RepositoryName
from llamatools.text import safe

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Settings:
    """What huggingface_hub reads from the environment."""

    endpoint: str
    offline: bool
    etag_timeout: float
    """Seconds without an answer, where metadata is asked for."""
    download_timeout: float
    """The same for files."""
    token_withheld: bool
    """HF_HUB_DISABLE_IMPLICIT_TOKEN is set."""
    cache: str

    @property
    def host(self) -> str:
        """Who is asked, without what the address may hold of passwords."""
        return urlsplit(self.endpoint).netloc.rpartition("@")[2] or self.endpoint


def settings() -> Settings:
    """UsageError where the environment holds what huggingface_hub does not understand."""
    try:
        from huggingface_hub import constants
    except ValueError as e:
        raise UsageError(
            f"the settings of huggingface_hub: {safe(e)}",
            hint="see the environment variables that begin with HF_HUB_",
        ) from None
    found = Settings(
        constants.ENDPOINT,
        constants.HF_HUB_OFFLINE,
        float(constants.HF_HUB_ETAG_TIMEOUT),
        float(constants.HF_HUB_DOWNLOAD_TIMEOUT),
        constants.HF_HUB_DISABLE_IMPLICIT_TOKEN,
        str(constants.HF_HUB_CACHE),
    )
    if not _is_address(found.endpoint):
        raise UsageError(
            f"HF_ENDPOINT: expected an address such as https://huggingface.co, "
            f"found {safe(found.endpoint)}"
        )
    return found


def _is_address(text: str) -> bool:
    try:
        found = urlsplit(text)
    except ValueError:
        return False
    return found.scheme in ("http", "https") and bool(found.hostname)


def request_headers() -> dict[str, str]:
    """Who asks, and the user's token where there is one.

    Telemetry is off meanwhile: with it, some versions ask the hub for a list of programs first,
    and say which of them started this one.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        headers: dict[str, str] = _utils().build_hf_headers(
            library_name="llamatools", library_version=__version__
        )
        return headers
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before


def _utils() -> Any:
    """Documented there, and not declared as exported."""
    return import_module("huggingface_hub.utils")


def listing_url(endpoint: str, name: RepositoryName) -> str:
    revision = quote(name.revision, safe="")
    return f"{endpoint}/api/models/{name.id}/revision/{revision}?blobs=true"


def file_url(endpoint: str, name: RepositoryName, commit: str, file: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(name.id, file, revision=commit, endpoint=endpoint)


def cached(name: RepositoryName, revision: str, file: str) -> Path | None:
    """Where the cache holds a file of that branch, tag or commit."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name.id, file, revision=revision)
    except (OSError, ValueError):  # a cache that may not be read, names that none can have
        return None
    return Path(found) if isinstance(found, str) else None


@dataclass(frozen=True)
class Answer:
    """An answer whose body has not been read yet."""

    status: int
    headers: Mapping[str, str]
    """Whatever the case of their names."""
    url: str
    """Where redirects led."""
    chunks: Iterator[bytes]
    """The body as sent, nothing decoded."""


@contextmanager
def stream(url: str, headers: Mapping[str, str], timeout: float) -> Iterator[Answer]:
    """A GET request. Leaving the context closes it, whatever is left of the body."""
    session: Any = _utils().get_session()
    if callable(getattr(session, "stream", None)):
        with session.stream(
            "GET", url, headers=headers, timeout=timeout, follow_redirects=True
        ) as r:
            yield Answer(r.status_code, r.headers, str(r.url), r.iter_raw())
        return
    r = session.get(url, headers=headers, timeout=timeout, stream=True)
    try:
        yield Answer(r.status_code, r.headers, r.url, r.raw.stream(_CHUNK, decode_content=False))
    finally:
        r.close()
