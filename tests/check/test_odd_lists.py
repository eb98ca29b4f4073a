"""Lists out of the ordinary: signed, in UTF-16, of odd names, and against themselves."""

from __future__ import annotations

import hashlib
import shutil
import time
import unicodedata
from pathlib import Path

import pytest
from check_kit import META_NAMES as NAMES
from check_kit import blamed, flipped, kinds, sums
from support.calls import call

import llamatools
from llamatools.checking.claims import Claim, Expected
from llamatools.checking.hashing import SHA256
from llamatools.checking.tree import Entry, Kind, Tree
from llamatools.checking.unlisted import unlisted

H = hashlib.sha256(b"").hexdigest()


def test_a_list_that_contradicts_itself(release: Path) -> None:
    text = sums(release, "sha256", "{h}  {n}\n")
    (release / "SHA256SUMS").write_text(f"{text}{H}  params.json\n")
    (problem,) = llamatools.check(release).problems
    assert (problem.file, problem.by, problem.expected) == ("params.json", "SHA256SUMS", H)
    as_well = f"contradicts itself: it says {problem.found[:16]}... as well"
    assert problem.text.endswith(as_well)
    (release / "params.json").write_text("neither")
    both = llamatools.check(release).problems
    assert [p.file for p in both] == ["params.json"] * 2
    assert all("contradicts itself" in p.text for p in both)
    # Of two lists, neither contradicts itself.
    (release / "SHA256SUMS").write_text(text)
    (release / "params.json").write_text("other")
    (release / "b.sha256").write_text(sums(release, "sha256", "{h}  {n}\n", ("params.json",)))
    (problem,) = llamatools.check(release).problems
    assert problem.text.endswith(": what it holds is what b.sha256 says")


def test_names_in_columns(release: Path) -> None:
    """Blanks and a star before a name are of it where there is such a file, and only there."""
    (release / "SHA256SUMS").write_text(sums(release, "sha256", "{h}    {n}\n"))
    assert llamatools.check(release).holds
    (release / "SHA256SUMS").write_text(sums(release, "sha256", "{h}  *{n}\n"))
    assert llamatools.check(release).holds
    # One of two files is not taken for the other.
    text = sums(release, "sha256", "{h}  {n}\n") + sums(release, "sha256", "{h}   {n}\n", NAMES[2:])
    (release / "SHA256SUMS").write_text(text)
    assert kinds(release) == {f" {NAMES[2]}": {"missing"}}
    shutil.copy(release / NAMES[2], release / f" {NAMES[2]}")
    assert llamatools.check(release).holds


PIPED = {"GNU": f"{H}  -\n", "GNU, binary": f"{H} *-\n", "BSD": f"SHA256 (-) = {H}\n"}


@pytest.mark.parametrize("line", PIPED.values(), ids=PIPED)
def test_a_digest_of_what_was_piped(line: str, release: Path) -> None:
    (release / "SHA256SUMS").write_text(sums(release, "sha256", "{h}  {n}\n") + line)
    found = llamatools.check(release)
    assert found.holds
    assert found.notes == ("SHA256SUMS has a digest of what was piped, which is no file",)
    (release / "-").write_bytes(b"a file all the same")
    assert kinds(release) == {"-": {"digest"}}
    (release / "-").unlink()
    (release / "SHA256SUMS").write_text(f"{H}  ./-\n")
    assert kinds(release)["-"] == {"missing"}
    (release / "SHA256SUMS").write_text(line)
    assert call("check", release).code == 3


def _signed(text: str, header: str = "Hash: SHA512\n\n") -> str:
    return (
        f"-----BEGIN PGP SIGNED MESSAGE-----\n{header}{text}"
        "-----BEGIN PGP SIGNATURE-----\nVersion: 2\n\niQEzBAEBCgAd\n=abcd\n"
        "-----END PGP SIGNATURE-----\n"
    )


@pytest.mark.parametrize("header", ["Hash: SHA512\n\n", "Hash: SHA1\nHash: SHA256\n\n", "\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_signed_list(end: str, header: str, release: Path) -> None:
    text = sums(release, "sha256", "{h}  {n}\n")
    dashes = f"- --{H}\n"  # an escaped line that is no checksum
    whole = _signed(text, header).replace("\n", end)
    (release / "SHA256SUMS").write_bytes(whole.encode())
    found = llamatools.check(release)
    assert (found.problems, found.files) == ((), len(NAMES))
    assert found.notes == ("SHA256SUMS is signed; by whom, gpg --verify tells",)
    flipped(release / NAMES[1], 7)
    assert blamed(release) == {NAMES[1]}
    flipped(release / NAMES[1], 7)
    for wrong in (_signed(text + dashes, header), text + "Hash: SHA256\n", f"{H}\n" + whole):
        (release / "SHA256SUMS").write_text(wrong)
        assert kinds(release) == {"SHA256SUMS": {"list"}}


@pytest.mark.parametrize("mark", ["-----BEGIN PGP SIGNATURE", "-----END PGP", "-----END PGP SIG"])
def test_a_signed_list_that_is_cut(mark: str, release: Path) -> None:
    whole = _signed(sums(release, "sha256", "{h}  {n}\n"))
    (release / "SHA256SUMS").write_text(whole[: whole.index(mark)])
    assert kinds(release) == {"SHA256SUMS": {"list"}}
    assert "its signature is cut" in llamatools.check(release).problems[0].text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_list_in_utf_16(encoding: str, release: Path) -> None:
    (release / "\u00e9.md").write_text("\u00e9")
    names = (*NAMES, "\u00e9.md")
    data = ("\ufeff" + sums(release, "sha256", "{h}  {n}\r\n", names)).encode(encoding)
    (release / "SHA256SUMS").write_bytes(data)
    found = llamatools.check(release)
    assert (found.problems, found.files) == ((), len(names))
    flipped(release / "\u00e9.md", 0)
    assert blamed(release) == {"\u00e9.md"}
    (release / "SHA256SUMS").write_bytes(data[:-1])
    assert kinds(release)["SHA256SUMS"] == {"list"}
    assert "UTF-16" in llamatools.check(release).problems[0].text


@pytest.mark.parametrize(("listed", "there"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_the_other_normal_form(listed: str, there: str, release: Path) -> None:
    (release / "gl\u00fcck").mkdir()
    names = {form: unicodedata.normalize(form, "gl\u00fcck/\u00e9") for form in (listed, there)}
    file = release / names[there]
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"")
    (release / "SHA256SUMS").write_text(f"{H}  {names[listed]}\n")
    (release / "checklist.chk").write_text(sums(release, "md5", "{h}  {n}\n"))
    assert llamatools.check(release).holds
    if (release / names[listed]).exists():
        pytest.skip("this file system takes one for the other")
    file.write_bytes(b"?")
    assert kinds(release) == {names[there]: {"digest"}}
    file.write_bytes(b"")
    # Of two files that are spelt so, both listed, one is missing all the same.
    (release / "SHA256SUMS").write_text(f"{H}  {names[listed]}\n{H}  {names[there]}\n")
    assert kinds(release) == {names[listed]: {"missing"}}
    # Which of two is meant, nobody knows.
    third = "glu\u0308ck/\u00e9"
    (release / third).parent.mkdir(exist_ok=True)
    (release / third).write_bytes(b"")
    (release / "SHA256SUMS").write_text(f"{H}  {names[listed]}\n")
    assert kinds(release) == {names[listed]: {"missing"}}


def test_many_folders_that_a_list_speaks_of_take_no_square(tmp_path: Path) -> None:
    files = tuple(Expected(f"d{i}/x", SHA256, H, "SHA256SUMS") for i in range(50_000))
    folders = {f"e{i}": Entry(Kind.FOLDER) for i in range(5000)}
    tree = Tree(tmp_path, {**folders, "d0": Entry(Kind.FOLDER), "d1": Entry(Kind.FOLDER)})
    start = time.process_time()
    problems, others = unlisted(tree, [Claim("SHA256SUMS", files)])
    assert time.process_time() - start < 5
    assert (problems, sorted(others)) == ([], sorted(f"{name}/" for name in folders))
