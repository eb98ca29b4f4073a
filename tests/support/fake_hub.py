"""A hub on 127.0.0.1: repositories with commits and files, ranges, redirects, and faults on demand.

Nothing of llamatools makes it. It speaks as much of the hub's protocol as downloads need, and
writes down what was asked.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
_LISTING = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)")
_FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Holes:
    """A file of which only the first bytes are anything, and the rest zeros that take no memory."""

    head: bytes
    size: int

    def __len__(self) -> int:
        return self.size


File = bytes | Holes


@dataclass
class Repo:
    """A repository; every branch is at its one commit."""

    files: dict[str, File]
    commit: str = COMMIT
    revisions: tuple[str, ...] = ("main",)
    token: str | None = None
    """Whoever sends another may not read the files."""
    private: bool = False
    """Nor may they see that there is such a repository."""
    sizes: bool = True
    """The listing tells them."""
    lfs: tuple[str, ...] = (".safetensors", ".bin", ".pth")
    """Endings of files that lie on another host, if there is one."""


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class FakeHub:
    """`with FakeHub().serving() as hub`: it listens at `hub.url` then."""

    repos: dict[str, Repo] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before each answer."""
    cdn: FakeHub | None = None
    """Another host, to which files are redirected."""
    ranges: bool = True
    asked: list[Asked] = field(default_factory=list)
    sent: int = 0
    """Bytes of bodies that were written, and perhaps read by nobody."""
    at_once: int = 0
    """The most requests that were under way together."""
    port: int = 0
    faults: dict[str, list[Callable[[Handler], bool | None]]] = field(default_factory=dict)
    """"listing" or a file's name -> what answers instead, the last one for good."""
    certificate: Path | None = None
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http{'s' if self.certificate else ''}://127.0.0.1:{self.port}"

    @contextmanager
    def serving(self) -> Iterator[FakeHub]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"hub": self}))
        server.daemon_threads = True
        if self.certificate:
            import ssl

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def publish(self, name: str, folder: Path, **more: Any) -> Repo:
        """A repository of the files in a folder."""
        files: dict[str, File] = {
            str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file()
        }  # fmt: skip
        self.repos[name] = Repo(files, **more)
        return self.repos[name]

    def fails(self, target: str, *answers: Callable[[Handler], bool | None]) -> None:
        self.faults[target] = list(answers)

    def fetched(self, ending: str) -> list[Asked]:
        """Requests for files of this ending."""
        return [a for a in self.asked if a.path.endswith(ending)]

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.at_once = max(self.at_once, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1

    def wrote(self, n: int) -> None:
        with self._lock:
            self.sent += n


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        headers = {k.lower(): v for k, v in self.headers.items()}
        self.hub.asked.append(Asked(self.command, unquote(self.path), headers))
        with self.hub.counted(), suppress(ConnectionError):
            time.sleep(self.hub.delay)
            self._route(urlsplit(self.path).path)

    def _route(self, path: str) -> None:
        listing, file = _LISTING.fullmatch(path), _FILE.fullmatch(path)
        found = listing or file
        if found is None:
            return self.refuse(404, None)
        target = "listing" if listing else unquote(found["file"])
        faults = self.hub.faults.get(target, [])
        if faults:
            fault = faults.pop(0) if len(faults) > 1 else faults[0]
            if fault(self) is not False:
                return None
        repo = self.hub.repos.get(found["repo"])
        allowed = repo and self.headers.get("Authorization") == f"Bearer {repo.token}"
        closed = repo and repo.token and not allowed and not path.startswith("/cdn/")
        if repo is None or (closed and repo.private):
            return self.refuse(
                401 if not self.headers.get("Authorization") else 404, "RepoNotFound"
            )
        if unquote(found["revision"]) not in (*repo.revisions, repo.commit):
            return self.refuse(404, "RevisionNotFound")
        if listing:
            return self.say(json.dumps(_listing(repo)).encode(), "application/json")
        if closed:
            code = 403 if self.headers.get("Authorization") else 401
            return self.refuse(code, "GatedRepo")
        if target not in repo.files:
            return self.refuse(404, "EntryNotFound")
        if self.hub.cdn and target.endswith(repo.lfs):
            return self.answer(302, {"Location": self.hub.cdn.url + path + "?signature=s3cret"})
        return self.give(repo.files[target])

    def refuse(self, status: int, code: str | None, **more: str) -> None:
        self.answer(status, ({"X-Error-Code": code} if code else {}) | more)

    def say(self, body: bytes, kind: str = "text/plain", status: int = 200) -> None:
        self.answer(status, {"Content-Type": kind}, body)

    def answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.begin(status, {"Content-Length": str(len(body))} | dict(headers))
        self.put(body)

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def put(self, data: bytes) -> None:
        if self.command == "HEAD":
            return
        self.wfile.write(data)
        self.wfile.flush()
        self.hub.wrote(len(data))

    def give(self, file: File) -> None:
        """A file, or the range of it that was asked for."""
        match = _RANGE.fullmatch(self.headers.get("Range", "")) if self.hub.ranges else None
        if match is None:
            self.begin(200, {"Content-Length": str(len(file))})
            return self._put_range(file, 0, len(file))
        start, stop = int(match[1]), min(int(match[2] or len(file)) + 1, len(file))
        if start >= len(file):
            return self.answer(416, {"Content-Range": f"bytes */{len(file)}"})
        self.begin(206, {
            "Content-Length": str(stop - start),
            "Content-Range": f"bytes {start}-{stop - 1}/{len(file)}",
        })  # fmt: skip
        return self._put_range(file, start, stop)

    def _put_range(self, file: File, start: int, stop: int) -> None:
        for at in range(start, stop, _BLOCK):
            end = min(at + _BLOCK, stop)
            part = (file.head if isinstance(file, Holes) else file)[at:end]
            self.put(part.ljust(end - at, b"\0"))


def _listing(repo: Repo) -> dict[str, Any]:
    def entry(name: str, file: File) -> dict[str, Any]:
        size = {"size": len(file), "blobId": "0" * 40} if repo.sizes else {}
        return {"rfilename": name, **size}

    siblings = [entry(name, file) for name, file in repo.files.items()]
    return {"id": "whatever", "sha": repo.commit, "private": False, "siblings": siblings}
