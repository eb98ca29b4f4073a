"""Requests that got no answer, or half of one: what happened, by the names of the errors.

Which library makes the requests is huggingface_hub's choice, so its errors are told by their names.
Their own words may hold signed addresses, and are not repeated.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from llamatools.errors import IOFailed, UsageError
from llamatools.hub.refusals import AGAIN_LATER, Failure, Place
from llamatools.text import safe


def of_exception(place: Place, file: str | None, e: Exception) -> Failure | None:
    """What an error of a request means; None where it is nothing that a network does."""
    causes = list(_causes(e))
    there = _asked(e)
    names = {c.__name__ for cause in causes for c in type(cause).__mro__}
    for kind, what, hint in _SYSTEM:
        if "ProxyError" not in names and any(isinstance(cause, kind) for cause in causes):
            return Failure(place.failed(file, what, hint, there=there))
    for words, what, hint, again in _LIBRARY:
        if names & words:
            return Failure(place.failed(file, what, hint, there=there), again=again)
    if isinstance(e, OSError):
        why = f"cannot be reached: {safe(e.strerror)}" if e.strerror else "cannot be reached"
        return Failure(place.failed(file, why, _CONNECTION))
    if isinstance(e, (ValueError, ImportError)):  # malformed proxies, tokens no header can hold
        return Failure(
            UsageError(
                f"{place.at()}: no request can be made of these settings ({type(e).__name__})",
                hint="check HTTPS_PROXY and its like, HF_ENDPOINT and HF_TOKEN",
            )
        )
    return None


def _asked(e: Exception) -> str | None:
    """The host of the request that failed, which redirects may have led to."""
    try:
        return urlsplit(str(e.request.url)).netloc.rpartition("@")[2]  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError, ValueError):
        return None


def timed_out(place: Place, file: str | None) -> IOFailed:
    return place.failed(file, "did not answer in time", _TIMEOUTS)


def _causes(e: BaseException | None) -> Iterator[BaseException]:
    """What led to an error, and what led to that; urllib3 keeps some of it apart."""
    seen: list[BaseException] = []
    queue = [e]
    while queue:
        cause = queue.pop(0)
        if not isinstance(cause, BaseException) or cause in seen or len(seen) > 20:
            continue
        seen.append(cause)
        yield cause
        inner = [getattr(cause, "reason", None), *cause.args]
        queue += [cause.__cause__, cause.__context__]
        queue += [x for x in inner if isinstance(x, BaseException)]


_CONNECTION = "is the network up? HTTPS_PROXY names a proxy, HF_ENDPOINT another host"
_TIMEOUTS = "HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT set how many seconds are waited"
_CERTIFICATE = (
    "if a proxy signs with a certificate of its own, name it in SSL_CERT_FILE or REQUESTS_CA_BUNDLE"
)

_SYSTEM: tuple[tuple[type[BaseException], str, str], ...] = (
    (ssl.SSLCertVerificationError, "shows a certificate that is not trusted", _CERTIFICATE),
    (ssl.SSLError, "cannot be spoken to in TLS", _CERTIFICATE),
    (socket.gaierror, "is a name that cannot be resolved", _CONNECTION),
    (ConnectionRefusedError, "refused the connection", _CONNECTION),
)

_LIBRARY: tuple[tuple[frozenset[str], str, str, bool], ...] = (
    (frozenset({"OfflineModeIsEnabled"}), "may not be asked: HF_HUB_OFFLINE is set",
     "unset HF_HUB_OFFLINE", False),
    (frozenset({"TimeoutException", "Timeout", "TimeoutError", "ReadTimeoutError"}),
     "did not answer in time", _TIMEOUTS, False),
    (frozenset({"ProxyError"}), "cannot be reached through the proxy", _CONNECTION, False),
    (frozenset({"TooManyRedirects"}), "redirects in a circle", "is HF_ENDPOINT a hub?", False),
    (frozenset({"UnsupportedProtocol", "InvalidURL", "MissingSchema", "InvalidSchema"}),
     "leads to an address that is none of the web", "is HF_ENDPOINT a hub?", False),
    (frozenset({"RemoteProtocolError", "ReadError", "ProtocolError", "ChunkedEncodingError",
                "IncompleteRead", "ConnectionResetError"}),
     "broke off its answer", AGAIN_LATER, True),
    (frozenset({"TransportError", "RequestException", "HTTPError"}),
     "cannot be reached", _CONNECTION, True),
)  # fmt: skip
"""Names among an error's classes -> what happened, what to do, whether to ask again."""
