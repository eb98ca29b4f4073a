"""What a hub, a server on the way, or a hostile repository can do; what is said, and when."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from support.calls import Called, call, spawn
from support.fake_hub import COMMIT, FakeHub, Handler, Holes, Repo
from support.sparse import Sizes, write_sparse_hf
from support.tiny import Tiny
from support.tiny_files import hf_config, write_hf

from llamatools.hub import fetching, header, listing, wire

NAME = "org/Llama-3.1-8B-mine"
SHARD = "model.safetensors"
Fault = Callable[[Handler], bool | None]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_PAUSES", (0.01, 0.01, 0.01))


@pytest.fixture
def repo(hub: FakeHub, tmp_path: Path) -> Repo:
    return hub.publish(NAME, write_hf(Tiny(), tmp_path / "hf"))


def ask(name: str = NAME) -> Called:
    """The answer, having checked what holds of every one."""
    seen = call("inspect", name, "--kv-memory", "--json")
    assert "Traceback" not in seen.err
    assert "\x1b" not in seen.out + seen.err
    if seen.code:
        assert seen.json["error"]["exit_code"] == seen.code
        assert any(name.partition("@")[0] in p for p in seen.json["error"]["problems"])
    return seen


def status(code: int, **headers: str) -> Fault:
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return lambda h: h.answer(code, named)


REFUSED: dict[str, tuple[str, Fault, int, str, str]] = {
    # what fails, how, exit code, what is said, what to do
    "nobody": ("listing", status(401), 3, "no such repository", "hf auth login"),
    "no repository": (
        "listing", status(404, X_Error_Code="RepoNotFound"), 3, "no such repository",
        "llama-3.1-8b",
    ),
    "not found": ("listing", status(404), 3, "no such repository", "check the name"),
    "no revision": (
        "listing", status(404, X_Error_Code="RevisionNotFound"), 3, "has no revision main", "tag",
    ),
    "gated": (
        SHARD, status(403, X_Error_Code="GatedRepo"), 3, "gated", "accept the licence at http",
    ),
    "gated for nobody": (SHARD, status(401), 3, "gated", "HF_TOKEN"),
    "forbidden": ("config.json", status(403), 3, "forbids it to who sends no token", "HF_TOKEN"),
    "file gone": (SHARD, status(404, X_Error_Code="EntryNotFound"), 3, "does not have it", "again"),
    "too many": ("listing", status(429), 4, "too many requests (429)", "later"),
    "too many for long": (
        SHARD, status(429, Retry_After="300"), 4, "wants 300 seconds of peace", "hf auth login",
    ),
    "defect": ("listing", status(500), 4, "failed with 500", "later"),
    "overload": (SHARD, status(503), 4, "failed with 503", "later"),
    "gateway": ("config.json", status(504), 4, "failed with 504", "later"),
    "too many in the window": (
        SHARD, status(429, RateLimit='"api";r=0;t=55'), 4, "wants 55 seconds of peace", "",
    ),
    "disabled": (
        "listing", status(403, X_Error_Message="Access to this resource is disabled."), 3,
        "has disabled access", "",
    ),
    "gone": ("listing", status(410, X_Error_Message="Moved."), 4, "answered 410: Moved.", ""),
    "teapot": (SHARD, status(418), 4, "answered 418", ""),
    "circle": (
        SHARD, lambda h: h.answer(302, {"Location": h.path}), 4, "redirects in a circle", "",
    ),
    "another scheme": (
        SHARD, lambda h: h.answer(302, {"Location": "file:///etc/passwd"}), 4, "address", "hub",
    ),
    "no listing": ("listing", lambda h: h.say(b"<html>"), 4, "no listing", "HF_ENDPOINT"),
    "empty": ("listing", lambda h: h.say(b""), 4, "no listing", "HF_ENDPOINT"),
    "a list": ("listing", lambda h: h.say(b"[]"), 4, "no listing", "HF_ENDPOINT"),
    "no commit": ("listing", lambda h: h.say(b'{"siblings": []}'), 4, "without a commit", ""),
    "a commit that leads away": (
        "listing", lambda h: h.say(b'{"sha": "../x", "siblings": []}'), 4, "without a commit", "",
    ),
    "no files": ("listing", lambda h: h.say(b'{"sha": "abc", "siblings": {}}'), 4, "siblings", ""),
    "broken config": ("config.json", lambda h: h.say(b"{"), 3, "not valid JSON", ""),
    "compressed": (
        "config.json",
        lambda h: h.answer(200, {"Content-Encoding": "gzip"}, gzip.compress(b"{}")),
        4, "compresses", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, hub: FakeHub, repo: Repo) -> None:
    target, fault, code, said, hint = REFUSED[case]
    assert ask().code == 0
    hub.fails(target, fault)
    seen = ask()
    assert seen.code == code, seen.err
    assert said in seen.err
    assert hint in seen.err.partition("hint:")[2]


def test_a_token_that_does_not_help(hub: FakeHub, repo: Repo, settings: Any) -> None:
    settings.setenv("HF_TOKEN", "hf_wrong")
    for target, code, said in (
        ("listing", 401, "does not accept the token"),
        (SHARD, 403, "forbids it to the token"),
    ):
        hub.fails(target, status(code))
        seen = ask()
        assert seen.code == 3
        assert said in seen.err
        assert "hf_wrong" not in seen.err + seen.out
        hub.faults.clear()
    repo.token = "hf_right"
    seen = ask()
    assert seen.code == 3
    assert "gated, and the account of the token that was sent has no access" in seen.err
    settings.setenv("HF_TOKEN", "hf_right")
    assert ask().code == 0


@pytest.mark.parametrize("target", ["listing", "config.json", SHARD])
@pytest.mark.parametrize(
    "fault",
    [
        status(500), status(503), status(429), status(429, Retry_After="0"),
        status(502, Retry_After="nonsense"),
    ],
)  # fmt: skip
def test_what_passes_is_asked_again(fault: Fault, target: str, hub: FakeHub, repo: Repo) -> None:
    hub.fails(target, fault, fault, lambda h: False)
    seen = ask()
    assert seen.code == 0, seen.err
    assert seen.json["source"]["requests"] == 5 == len(hub.asked)


def test_not_for_ever(hub: FakeHub, repo: Repo) -> None:
    hub.fails(SHARD, status(500))
    ask()
    assert len(hub.fetched(SHARD)) == 4


def test_as_long_as_the_server_wants(hub: FakeHub, repo: Repo) -> None:
    hub.fails(SHARD, status(429, Retry_After="1"), lambda h: False)
    start = time.monotonic()
    assert ask().code == 0
    assert time.monotonic() - start >= 1
    hub.fails(SHARD, status(429, Retry_After="60"))
    start = time.monotonic()
    assert ask().code == 4
    assert time.monotonic() - start < 1


def test_what_stays_is_not_asked_again(hub: FakeHub, repo: Repo) -> None:
    for code in (401, 403, 404, 418):
        hub.asked.clear()
        hub.fails("listing", status(code))
        ask()
        assert len(hub.asked) == 1


def _shut(h: Handler) -> None:
    h.connection.shutdown(socket.SHUT_RDWR)


def _half(h: Handler) -> None:
    size = len(h.hub.repos[NAME].files[SHARD])
    h.begin(206, {"Content-Length": str(size), "Content-Range": f"bytes 0-{size - 1}/{size}"})
    h.put(b"x" * 100)
    _shut(h)


def _unsaid_half(h: Handler) -> None:
    """No length: where the body ends cannot be told from where it breaks off."""
    file = h.hub.repos[NAME].files[SHARD]
    stop = min(len(file), 100_000)
    h.begin(206, {"Connection": "close", "Content-Range": f"bytes 0-{stop - 1}/{len(file)}"})
    h.put(b"x" * 100)
    h.close_connection = True


BROKEN: dict[str, Fault] = {"at once": _shut, "half": _half, "half of who knows": _unsaid_half}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_off(case: str, hub: FakeHub, repo: Repo) -> None:
    hub.fails(SHARD, BROKEN[case], lambda h: False)
    assert ask().code == 0
    hub.fails(SHARD, BROKEN[case])
    seen = ask()
    assert seen.code == 4
    assert "broke off its answer" in seen.err
    assert f"{NAME}/{SHARD}" in seen.err


def _drip(h: Handler) -> None:
    h.begin(200, {"Content-Length": "100000"})
    for _ in range(100):
        h.put(b" ")
        time.sleep(0.1)


def _drip_headers(h: Handler) -> None:
    h.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for i in range(100):
        h.wfile.write(b"X-%d: x\r\n" % i)
        time.sleep(0.1)


def _hang(h: Handler) -> None:
    time.sleep(10)


@pytest.mark.parametrize("target", ["listing", SHARD])
@pytest.mark.parametrize("fault", [_hang, _drip, _drip_headers])
def test_slow(fault: Fault, target: str, hub: FakeHub, repo: Repo) -> None:
    """Timeouts are of a second here."""
    hub.fails(target, fault)
    start = time.monotonic()
    seen = ask()
    assert seen.code == 4
    assert "did not answer in time" in seen.err
    assert "HF_HUB_DOWNLOAD_TIMEOUT" in seen.err
    assert time.monotonic() - start < (3 if fault is _hang else 8)


def test_nobody_there(hub: FakeHub, settings: pytest.MonkeyPatch) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    settings.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    seen = ask()
    assert seen.code == 4
    assert f"127.0.0.1:{port} refused the connection" in seen.err
    assert "HTTPS_PROXY" in seen.err
    settings.setattr(constants, "ENDPOINT", "http://nowhere.invalid")
    seen = ask()
    assert seen.code == 4
    assert "nowhere.invalid is a name that cannot be resolved" in seen.err


@pytest.mark.parametrize("endpoint", ["localhost:80", "", "ftp://x", "http://", "http://[", "/"])
def test_no_endpoint(endpoint: str, hub: FakeHub, settings: pytest.MonkeyPatch) -> None:
    settings.setattr(constants, "ENDPOINT", endpoint)
    seen = call("inspect", NAME, "--kv-memory")
    assert seen.code == 2
    assert "HF_ENDPOINT" in seen.err


def test_a_host_behind_a_redirect(hub: FakeHub, repo: Repo) -> None:
    hub.fails(SHARD, lambda h: h.answer(302, {"Location": "http://cdn.invalid/x?signature=s3cret"}))
    seen = ask()
    assert seen.code == 4
    assert "redirects to cdn.invalid, which is a name that cannot be resolved" in seen.err
    assert "s3cret" not in seen.err


def test_a_certificate_that_nobody_signed(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pem = tmp_path / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=127.0.0.1", "-keyout", pem, "-out", tmp_path / "cert.pem"],
        capture_output=True,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("no openssl")
    pem.write_text(pem.read_text() + (tmp_path / "cert.pem").read_text())
    with FakeHub(certificate=pem).serving() as secure:
        settings.setattr(constants, "ENDPOINT", secure.url)
        seen = ask()
    assert seen.code == 4
    assert "certificate that is not trusted" in seen.err
    assert "SSL_CERT_FILE" in seen.err


def test_tls_where_there_is_none(hub: FakeHub, settings: pytest.MonkeyPatch) -> None:
    settings.setattr(constants, "ENDPOINT", hub.url.replace("http:", "https:"))
    seen = ask()
    assert seen.code == 4
    assert "TLS" in seen.err


def range_of(text: str, body: bytes = b"x" * 100) -> Fault:
    return lambda h: h.answer(206, {"Content-Range": text}, body)


LIES: dict[str, Fault] = {
    "another range": range_of("bytes 5-104/61000"),
    "more": range_of("bytes 0-999999/6100000"),
    "less": range_of("bytes 0-99/61000"),
    "backwards": range_of("bytes 99-0/61000"),
    "no range": range_of(""),
    "nonsense": range_of("bytes zero to hero"),
    "\\x1b": range_of("bytes \x1b[31m"),
    "endless digits": range_of("bytes 0-99/" + "9" * 4000),
    "another size": lambda h: h.answer(206, {"Content-Range": "bytes 0-99/100"}, b"x" * 100),
    "an endless file": lambda h: h.answer(
        206, {"Content-Range": f"bytes 0-99999/{1 << 60}"}, b"\xff" * 100_000
    ),
    "nothing of it": lambda h: h.answer(416, {"Content-Range": "bytes */0"}),
    "another end": lambda h: h.answer(416, {}),
}


@pytest.mark.parametrize("case", LIES)
def test_lies_of_a_server(case: str, hub: FakeHub, repo: Repo) -> None:
    hub.fails(SHARD, LIES[case])
    seen = ask()
    assert seen.code == 4, seen.err
    assert f"{NAME}/{SHARD}" in seen.err


def test_a_second_range_that_is_another_files(hub: FakeHub, repo: Repo, settings: Any) -> None:
    settings.setattr(fetching, "USUAL", 600)
    assert ask().code == 0
    assert len(hub.fetched(SHARD)) == 2
    repo.sizes = False
    hub.fails(SHARD, lambda h: False, range_of("bytes 600-2911/61000", b"x" * 2312))
    seen = ask()
    assert seen.code == 4
    assert "and then 61,000" in seen.err or "was asked for bytes 600" in seen.err


def _endless(h: Handler) -> None:
    """A body without an end."""
    h.begin(200, {"Connection": "close"})
    h.close_connection = True
    for _ in range(20_000):
        h.put(b" " * 65536)


@pytest.mark.parametrize("target", ["listing", "config.json"])
def test_endless(target: str, hub: FakeHub, repo: Repo, settings: pytest.MonkeyPatch) -> None:
    for module in (listing, fetching):
        settings.setattr(module, "MOST_BYTES", 1_000_000)
    hub.fails(target, _endless)
    seen = ask()
    assert seen.code == 3
    assert "more than the 1 MB allowed" in seen.err
    assert hub.sent < 20_000_000


def test_a_file_listed_as_too_large_is_not_fetched(hub: FakeHub, repo: Repo) -> None:
    repo.files["config.json"] = Holes(b"{}", 10**12)
    seen = ask()
    assert seen.code == 3
    assert f"{NAME}/config.json: more than the 64 MB allowed" in seen.err
    assert hub.fetched("config.json") == []


def test_a_listing_of_many(hub: FakeHub, repo: Repo, settings: pytest.MonkeyPatch) -> None:
    settings.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 30)
    repo.files |= {f"images/{'x' * 60}-{i}.png": b"" for i in range(100_000)}
    repo.files |= {f"{'y' * 60}-{i}.png": b"" for i in range(100_000)}
    start = time.monotonic()
    assert ask().code == 0
    assert time.monotonic() - start < 30
    repo.files |= {f"model-{i:05}-of-99999.safetensors": b"" for i in range(20_000)}
    del repo.files[SHARD]
    hub.asked.clear()
    seen = ask()
    assert seen.code == 3
    assert "more than 2,000 weight files" in seen.err
    assert len(hub.asked) == 1


def test_hostile_names_in_a_listing(hub: FakeHub, repo: Repo) -> None:
    hostile = ["../../etc/passwd", "/etc/passwd", "a/../../b", "..", ".", "",
               "\x1b[31m.safetensors", "model-00001-of-00002.safetensors/x", "a\\b",
               "original/../x", "x\ny", "é" * 300, "original/", "con\0.json", "::x::"]  # fmt: skip
    repo.files |= dict.fromkeys(hostile, b"{}")
    assert ask().code == 0
    del repo.files[SHARD]
    del repo.files["config.json"]
    seen = ask()
    assert seen.code == 3
    assert "no weights" in seen.err
    assert "::x::" not in seen.err
    assert len({a.path for a in hub.asked}) == 3
    entries = [None, 1, [], {}, {"rfilename": 5}, {"rfilename": "config.json", "size": "big"},
               {"rfilename": "model.safetensors", "size": -1, "lfs": 7}]  # fmt: skip
    body = json.dumps({"sha": COMMIT, "siblings": entries}).encode()
    hub.fails("listing", lambda h: h.say(body))
    assert ask().code == 3


def _index(repo: Repo, where: dict[str, Any]) -> None:
    repo.files.pop(SHARD, None)
    repo.files["model.safetensors.index.json"] = json.dumps({"weight_map": where}).encode()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"a": "../../etc/passwd"}, "expected a plain file name"),
        ({"a": "/etc/passwd"}, "expected a plain file name"),
        ({"a": "model-00001-of-00001.safetensors"}, "missing: model-00001"),
        ({"a": "\x1b[31m"}, "missing"),
        ({"a": 7}, "expected a plain file name"),
        ({}, "expected a filled object"),
        ({"a": "config.json"}, "a checkpoint"),
    ],
)
def test_hostile_indexes(where: dict[str, Any], said: str, hub: FakeHub, repo: Repo) -> None:
    _index(repo, where)
    seen = ask()
    assert seen.code == 3
    assert said in seen.err
    asked = {a.path.rpartition("/")[2] for a in hub.asked[1:]}
    assert asked <= {"config.json", "model.safetensors.index.json"}


def test_no_weights(hub: FakeHub) -> None:
    hub.repos[NAME] = Repo({"README.md": b"hello"})
    seen = ask()
    assert seen.code == 3
    assert f"{NAME}: no weights" in seen.err
    hub.repos[NAME] = Repo({"model-Q4_K.gguf": Holes(b"GGUF", 10**9), "README.md": b""})
    seen = ask()
    assert seen.code == 3
    assert "a GGUF checkpoint" in seen.err
    hub.repos[NAME] = Repo({"adapter_config.json": b"{}", "adapter_model.safetensors": b""})
    seen = ask()
    assert "an adapter, not a model" in seen.err
    hub.repos[NAME] = Repo({"pytorch_model.bin": b"x"})
    seen = ask()
    assert seen.code == 3
    assert "no params.json or config.json beside them" in seen.err


def packed(header: bytes, data: int = 0, length: int | None = None) -> bytes:
    n = len(header) if length is None else length
    return n.to_bytes(8, "little") + header + b"\0" * data


def entry(start: int, stop: int, shape: list[int], dtype: str = "F32") -> bytes:
    return json.dumps(
        {"model.embed_tokens.weight": {
            "dtype": dtype, "shape": shape, "data_offsets": [start, stop]}}
    ).encode()  # fmt: skip


HEADERS = {
    "length 2^60": packed(b"{}", 9, 1 << 60),
    "length 2^64-1": packed(b"{}", 9, (1 << 64) - 1),
    "length past the end": packed(b"{}", 9, 10_000),
    "100 MB of length": packed(b"{}", 9, 99_999_999),
    "no JSON": packed(b"{nope"),
    "no object": packed(b"[]"),
    "not UTF-8": packed(b'{"\xff": 1}'),
    "deep": packed(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    "twice": packed(b'{"a": {}, "a": {}}'),
    "offsets past the end": packed(entry(0, 400, [100]), 40),
    "holes": packed(entry(100, 140, [10]), 140),
    "bytes after": packed(entry(0, 40, [10]), 41),
    "backwards": packed(entry(40, 0, [10]), 40),
    "huge offsets": packed(entry(0, 1 << 62, [1 << 60]), 40),
    "a shape of 2^80": packed(entry(0, 40, [1 << 40, 1 << 40]), 40),
    "unknown dtype": packed(entry(0, 40, [10], "Q5"), 40),
    "names": packed(b'{"\\u001b[31m::error::": {"dtype": 5}}'),
    "empty": b"",
    "seven bytes": b"\1\0\0\0\0\0\0",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
    "a web page": b"<html>" + b" " * 3000,
    "a pickle": b"\x80\x02" + b"x" * 5000,
    "zeros": bytes(5000),
    "noise": bytes(range(7, 256)) * 50,
}


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_lie(
    case: str, ranges: bool, hub: FakeHub, repo: Repo, tmp_path: Path
) -> None:
    """Word for word what is said of the same file in a folder."""
    hub.ranges = ranges
    repo.files[SHARD] = HEADERS[case]
    (tmp_path / "hf" / SHARD).write_bytes(HEADERS[case])
    local = call("inspect", tmp_path / "hf", "--kv-memory", "--json")
    seen = ask()
    assert seen.code == local.code == 3
    wanted = [p.replace(str(tmp_path / "hf"), NAME) for p in local.json["error"]["problems"]]
    assert seen.json["error"]["problems"] == wanted


def test_a_zip_archive_is_not_followed(hub: FakeHub, repo: Repo) -> None:
    repo.files[SHARD] = b"PK\3\4" + b"x" * 500_000
    seen = ask()
    assert seen.code == 4
    assert f"{NAME}/{SHARD}" in seen.err and "were not fetched" in seen.err


@pytest.mark.parametrize("sizes", [True, False])
@pytest.mark.parametrize("first", [600, 100_000])
def test_five_gigabytes_from_who_knows_no_ranges(
    first: int, sizes: bool, hub: FakeHub, repo: Repo, settings: Any, tmp_path: Path
) -> None:
    """As much is read as the header has, and no more."""
    settings.setattr(fetching, "USUAL", first)
    config = hf_config(Tiny()) | {
        "hidden_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 32,
        "intermediate_size": 14336, "vocab_size": 128256, "num_key_value_heads": 8,
    }  # fmt: skip
    folder = write_sparse_hf(tmp_path / "big", Sizes(4096, 8, 32, 8, 14336, 128256), config)
    with (folder / SHARD).open("rb") as f:
        head = f.read(1_000_000)
    repo.files[SHARD] = Holes(head, (folder / SHARD).stat().st_size)
    repo.files["config.json"] = (folder / "config.json").read_bytes()
    assert len(repo.files[SHARD]) > 5_000_000_000
    repo.sizes = sizes
    expected = ask()
    assert expected.code == 0
    assert hub.sent < 200_000
    hub.ranges, hub.sent = False, 0
    seen = ask()
    assert seen.code == 0
    assert seen.json["weights"] == expected.json["weights"]
    assert seen.json["source"]["bytes"] < 400_000
    assert hub.sent < 40_000_000  # with what the system buffers on the way


def test_no_word_of_a_servers_is_printed_raw(hub: FakeHub, repo: Repo) -> None:
    words = "\x1b[31m::error::"
    hub.fails(SHARD, status(418, X_Error_Message=words, X_HF_Warning=f"topic; {words}"))
    seen = ask()
    assert seen.code == 4
    assert "::error::" not in seen.err


def test_too_many_headers(hub: FakeHub, repo: Repo, settings: pytest.MonkeyPatch) -> None:
    settings.setattr(fetching, "MOST_HEADERS", 1000)
    seen = ask()
    assert seen.code == 3
    assert "headers of more than 1 kB" in seen.err


def test_malformed_settings(hub: FakeHub, repo: Repo, settings: pytest.MonkeyPatch) -> None:
    settings.setenv("HF_TOKEN", "hf_ü\u2028x")
    seen = ask()
    assert seen.code == 2
    assert "HF_TOKEN" in seen.err


def test_stopped_while_a_server_hangs(hub: FakeHub, repo: Repo) -> None:
    hanging = threading.Event()

    def hang(h: Handler) -> None:
        hanging.set()
        time.sleep(5)

    hub.fails(SHARD, hang)
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DOWNLOAD_TIMEOUT": "30"}
    process = spawn("inspect", NAME, "--kv-memory", env=environment)
    assert hanging.wait(20)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - start < 3
    assert out == b""
    assert b"nothing was left behind" in err and b"Traceback" not in err


def test_negative_controls(hub: FakeHub, repo: Repo, settings: pytest.MonkeyPatch) -> None:
    """Checks that are broken are noticed by the tests above."""
    settings.setattr(header, "_needed", lambda found: 512)
    settings.setattr(fetching, "USUAL", 600)
    assert ask().code != 0  # a header that is longer than what was asked for
