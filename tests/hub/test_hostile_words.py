"""Whatever a hub says: an answer or an error of ours, and no name that leads elsewhere."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatools.containers.detect import open_container
from llamatools.errors import LlamatoolsError
from llamatools.hub import header, library
from llamatools.hub.library import Answer
from llamatools.hub.listing import read_listing
from llamatools.hub.name import RepositoryName, parse_name
from llamatools.hub.refusals import Place, of_status
from llamatools.hub.wire import Part, Wire

PLACE = Place(
    RepositoryName("org/x"),
    library.Settings("https://hub.example", False, 1.0, 1.0, False, "/nowhere"),
    with_token=False,
)
WORDS = st.text(max_size=20) | st.sampled_from(["..", "original/..", "original/x", "a/b", "\\", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
ENTRY = st.dictionaries(st.sampled_from(["rfilename", "size", "lfs"]), JSON) | JSON


@given(st.fixed_dictionaries({"sha": WORDS | st.just("abc"), "siblings": st.lists(ENTRY) | JSON}))
def test_listings(found: object) -> None:
    try:
        listing = read_listing(PLACE, json.dumps(found).encode())
    except LlamatoolsError as e:
        assert "org/x" in str(e)
        return
    assert listing.commit.isalnum()
    for name, size in listing.sizes.items():
        parts = PurePosixPath("/repo", name).parts
        assert len(parts) <= 4 and not {"..", "."} & set(name.split("/"))
        assert name.isprintable() and "\\" not in name
        assert size is None or size >= 0


@given(st.binary(max_size=300))
def test_listings_of_bytes(data: bytes) -> None:
    with pytest.raises(LlamatoolsError, match="org/x"):
        read_listing(PLACE, data)


VALUES = st.text(max_size=30) | st.from_regex(r"bytes \d{1,3}-\d{1,3}/(\d{1,3}|\*)", fullmatch=True)


@given(VALUES, st.integers(0, 90), st.integers(1, 90))
def test_ranges(text: str, start: int, length: int) -> None:
    """What is let through begins where it was asked to, and ends there or where the file does."""
    wire = Wire(PLACE, {})
    answer = Answer(206, {"Content-Range": text}, "https://hub.example", iter(()))
    try:
        first, last, size = wire._range(answer, "x", start, start + length)
    except LlamatoolsError:
        return
    assert first == start
    assert last == start + length - 1 or last + 1 == size


SAID = st.sampled_from(["X-Error-Code", "X-Error-Message", "Retry-After", "RateLimit"])


@given(st.integers(300, 599), st.dictionaries(SAID, VALUES))
def test_every_status_is_an_error(status: int, headers: dict[str, str]) -> None:
    failure = of_status(PLACE, "x", status, headers)
    assert "org/x" in str(failure.error)
    assert all(p.isprintable() for p in failure.error.problems)
    assert failure.wait >= 0


@given(st.binary(max_size=700), st.integers(0, 2000), st.booleans())
def test_files(data: bytes, size: int, told: bool) -> None:
    """However a file's bytes and size contradict each other, reading it ends in our errors."""

    class Cut(Wire):
        def part(self, url: str, file: str, start: int, *_: object) -> Part:
            return Part(data[start:size], size if told else None)

    path = Path("org/x/model.safetensors")
    try:
        held = header.fetch_header(Cut(PLACE, {}), "", "model.safetensors", path, 100, size)
        open_container(held)
    except LlamatoolsError as e:
        assert "org/x" in str(e)


NAMES = st.from_regex(r"[\w.-]{1,9}/[\w.-]{1,9}(@[\w./-]{1,9})?", fullmatch=True)


@given(st.text(max_size=40) | NAMES)
def test_names(text: str) -> None:
    name = parse_name(text)
    if name is None:
        return
    assert name.id.count("/") == 1 and name.id.isascii() and name.id.isprintable()
    assert ".." not in text and not text.startswith((".", "/", "-"))
    assert parse_name(str(name)) == name
