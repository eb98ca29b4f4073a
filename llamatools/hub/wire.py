"""Requests to a hub: bounded in bytes and in time, asked again where that may help, and counted.

No word of an answer is believed: neither its length nor its range, nor that it keeps to what was
asked for. No more of a body is read than is needed.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from llamatools.errors import BadInput, LlamatoolsError
from llamatools.hub.breakdowns import of_exception, timed_out
from llamatools.hub.library import Answer, request_headers, stream
from llamatools.hub.refusals import Failure, Place, of_status
from llamatools.text import nbytes, safe

T = TypeVar("T")

_PAUSES = (0.5, 1.0, 2.0)
"""Seconds before a request is made again, and so how often it is."""
_LONGEST_WAIT = 8.0
"""Who wants more peace than this is left alone for good."""
_PATIENCE = 4
"""Timeouts that go by before slowness, which no timeout notices, ends a request."""
_SLOW = 10_000
"""Bytes a second that are no slowness."""
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,19}|\*)")
_EMPTY = re.compile(r"bytes \*/(\d{1,19})")


@dataclass(frozen=True)
class Part:
    """The first bytes from some offset of a file on, and how large the file is, if it was told."""

    data: bytes
    size: int | None


class Transient(Exception):
    """A request failed that may go better at once."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__()


class Wire:
    """Asks one hub about one repository. Threads may share it."""

    def __init__(self, place: Place, headers: dict[str, str]) -> None:
        self.place = place
        self.requests = 0
        self.nbytes = 0
        """Of bodies, as far as they were read."""
        # Compressed, a body of a few bytes could become any number of them.
        self._headers = headers | {"Accept-Encoding": "identity"}
        self._lock = threading.Lock()
        self._alive = time.monotonic()
        self._closed = threading.Event()

    @classmethod
    def to(cls, place_of: Callable[[bool], Place]) -> Wire:
        """`place_of` is told whether the user has a token."""
        try:
            headers = request_headers()
        except (OSError, ValueError) as e:
            raise _known(place_of(False), None, e).error from None
        return cls(place_of("authorization" in headers), headers)

    def whole(self, url: str, file: str | None, most: int, timeout: float) -> bytes:
        """All of a small file; BadInput where it is larger than `most`."""

        def read(answer: Answer) -> bytes:
            self._must_be(answer, file, 200)
            data = self._take(answer, file, timeout, lambda found: most + 1)
            if len(data) > most:
                raise BadInput(f"{self.place.at(file)}: more than the {nbytes(most)} allowed")
            self._check_length(answer, file, len(data))
            return data

        return self._patiently(lambda: self._ask(url, file, {}, timeout, read))

    def part(
        self,
        url: str,
        file: str,
        start: int,
        stop: int,
        timeout: float,
        needed: Callable[[bytearray], int],
    ) -> Part:
        """Bytes from `start` up to `stop`, or to the end of the file.

        A server that knows no ranges sends the file from its beginning. Of that, as much is read
        as `needed` says, which sees what there is so far.
        """
        asked = {"Range": f"bytes={start}-{stop - 1}"}

        def read(answer: Answer) -> Part:
            empty = _EMPTY.fullmatch(answer.headers.get("Content-Range", ""))
            if answer.status == 416 and empty and int(empty[1]) <= start:
                return Part(b"", int(empty[1]))
            self._must_be(answer, file, 200, 206)
            if answer.status == 200:
                data = self._take(answer, file, timeout, needed)
                return Part(data[start:], _length(answer))
            first, last, size = self._range(answer, file, start, stop)
            data = self._take(answer, file, timeout, lambda found: last + 1 - first)
            if len(data) != last + 1 - first:
                raise Transient(Failure(self.place.failed(file, "broke off its answer"), True))
            return Part(data, size)

        return self._patiently(lambda: self._ask(url, file, asked, timeout, read))

    def check_alive(self) -> None:
        """IOFailed where no request has moved for too long."""
        s = self.place.settings
        allowed = _PATIENCE * max(s.etag_timeout, s.download_timeout)
        if time.monotonic() - self._alive > allowed:
            raise timed_out(self.place, None)

    def close(self) -> None:
        """No request is made again from now on."""
        self._closed.set()

    def _patiently(self, once: Callable[[], T]) -> T:
        pauses = iter(_PAUSES)
        while isinstance(found := _attempt(once), Failure):
            pause = next(pauses, None)
            wait = max(pause or 0.0, found.wait)
            if pause is None or wait > _LONGEST_WAIT or self._closed.is_set():
                raise found.error
            self._alive = time.monotonic() + wait
            self._closed.wait(wait)
        return found

    def _ask(
        self,
        url: str,
        file: str | None,
        more: dict[str, str],
        timeout: float,
        read: Callable[[Answer], T],
    ) -> T:
        with self._lock:
            self.requests += 1
        self._alive = time.monotonic()
        try:
            with stream(url, self._headers | more, timeout) as answer:
                return read(answer)
        except (LlamatoolsError, Transient):
            raise
        except Exception as e:
            failure = _known(self.place, file, e)
            if failure.again:
                raise Transient(failure) from None
            raise failure.error from None

    def _must_be(self, answer: Answer, file: str | None, *wanted: int) -> None:
        """Raises what the status means, where it is none of those wanted."""
        if answer.status not in wanted:
            failure = of_status(self.place, file, answer.status, answer.headers)
            if failure.again:
                raise Transient(failure)
            raise failure.error
        secure = self.place.settings.endpoint.startswith("https:")
        if secure and not answer.url.startswith("https:"):
            raise self.place.failed(file, "redirects to where nothing is encrypted")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise self.place.failed(file, "compresses what it was asked to send as it is")

    def _take(
        self,
        answer: Answer,
        file: str | None,
        timeout: float,
        needed: Callable[[bytearray], int],
    ) -> bytes:
        """At most the bytes of the body that are needed; fewer where it ends."""
        found = bytearray()
        start = time.monotonic()
        for chunk in answer.chunks:
            found += chunk
            with self._lock:
                self.nbytes += len(chunk)
            now = self._alive = time.monotonic()
            if len(found) >= needed(found):
                break
            slow = len(found) < _SLOW * (now - start)
            if slow and now - start > _PATIENCE * timeout:
                raise timed_out(self.place, file)
        return bytes(found[: needed(found)])

    def _check_length(self, answer: Answer, file: str | None, found: int) -> None:
        if _length(answer) not in (None, found):
            raise Transient(Failure(self.place.failed(file, "broke off its answer"), True))

    def _range(
        self, answer: Answer, file: str, start: int, stop: int
    ) -> tuple[int, int, int | None]:
        """(first byte, last byte, size of the file) as the answer says, if that can be."""
        text = answer.headers.get("Content-Range", "")
        match = _RANGE.fullmatch(text)
        size = int(match[3]) if match and match[3] != "*" else None
        first, last = (int(match[1]), int(match[2])) if match else (-1, -1)
        ends = {stop - 1} if size is None else {min(stop, size) - 1}
        if first != start or last not in ends:
            raise self.place.failed(
                file,
                f"was asked for bytes {start} to {stop - 1}, and says that it sends "
                f"{safe(text, 60) or 'others'}",
                "is there a proxy on the way that does not know ranges?",
            )
        return first, last, size


def _length(answer: Answer) -> int | None:
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _attempt(once: Callable[[], T]) -> T | Failure:
    try:
        return once()
    except Transient as e:
        return e.failure


def _known(place: Place, file: str | None, e: Exception) -> Failure:
    failure = of_exception(place, file, e)
    if failure is None:
        raise e
    return failure
