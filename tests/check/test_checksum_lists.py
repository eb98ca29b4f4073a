"""Meta's checklist.chk, SHA256SUMS and their like, as the programs that make them write them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from check_kit import META_NAMES as NAMES
from check_kit import blamed, flipped, kinds, make, sums
from support.calls import call

import llamatools

FORMS = {
    "Meta's": ("checklist.chk", "md5", "{h}  {n}\n"),
    "Meta's with SHA-256": ("checklist.chk", "sha256", "{h}  {n}\n"),
    "tokenizer's": ("tokenizer_checklist.chk", "md5", "{h}  {n}\n"),
    "binary": ("checklist.chk", "md5", "{h} *{n}\n"),
    "one space": ("checklist.chk", "md5", "{h} {n}\n"),
    "capitals": ("checklist.chk", "sha256", "{h}  {n}\n"),
    "line ends": ("checklist.chk", "md5", "{h}  {n}\r\n"),
    "GNU": ("SHA256SUMS", "sha256", "{h}  {n}\n"),
    "GNU, dots": ("sha256sums.txt", "sha256", "{h}  ./{n}\n"),
    "GNU MD5": ("MD5SUMS", "md5", "{h} *{n}\n"),
    "SHA-1": ("sha1sum.txt", "sha1", "{h}  {n}\n"),
    "SHA-512": ("SHA512SUMS", "sha512", "{h}  {n}\n"),
    "BLAKE3": ("B3SUMS", "b3", "{h}  {n}\n"),
    "BSD": ("SHA256SUMS", "sha256", "SHA256 ({n}) = {h}\n"),
    "BSD MD5": ("MD5SUMS", "md5", "MD5 ({n}) = {h}\n"),
    "BSD BLAKE3": ("checksums.txt", "b3", "BLAKE3 ({n}) = {h}\n"),
    "openssl": ("checksums.txt", "sha256", "SHA2-256({n})= {h}\n"),
    "openssl's older": ("checksum.txt", "sha1", "SHA1({n})= {h}\n"),
    "remarks": ("SHA256SUMS", "sha256", "# sums\n\n; {n}\n{h}  {n}\n"),
    "a mark": ("SHA256SUMS", "sha256", "{h}  {n}\n"),
    "ending": ("release.sha256", "sha256", "{h}  {n}\n"),
}


def _write(release: Path, form: str) -> Path:
    name, kind, line = FORMS[form]
    text = sums(release, kind, line)
    if form == "capitals":
        pairs = (line.split() for line in text.splitlines())
        text = "".join(f"{digest.upper()}  {n}\n" for digest, n in pairs)
    data = (b"\xef\xbb\xbf" if form == "a mark" else b"") + text.encode()
    (release / name).write_bytes(data)
    return release / name


@pytest.mark.parametrize("form", FORMS)
def test_a_list_of_every_form(form: str, release: Path) -> None:
    file = _write(release, form)
    found = llamatools.check(release)
    assert found.problems == ()
    assert (found.by, found.files) == ((file.name,), len(NAMES))
    for name in NAMES:
        sound = (release / name).read_bytes()
        for at in (0, len(sound) // 3, len(sound) - 1):
            flipped(release / name, at)
            assert kinds(release) == {name: {"digest"}}
            (release / name).write_bytes(sound)
        (release / name).write_bytes(sound + b"\n")
        assert kinds(release) == {name: {"digest"}}
        (release / name).unlink()
        assert kinds(release) == {name: {"missing"}}
        (release / name).write_bytes(sound)
    assert llamatools.check(release).holds


@pytest.mark.parametrize("form", ["Meta's", "GNU", "BSD", "BLAKE3", "openssl"])
def test_no_digit_of_a_list_may_change(form: str, release: Path) -> None:
    file = _write(release, form)
    sound = file.read_text()
    digest = max(sound.split(), key=len)
    for at in range(sound.index(digest), sound.index(digest) + len(digest)):
        other = "0" if sound[at] != "0" else "1"
        file.write_text(sound[:at] + other + sound[at + 1 :])
        assert blamed(release) == {NAMES[0]}


@pytest.mark.parametrize("tool", ["md5sum", "sha1sum", "sha256sum", "sha512sum"])
@pytest.mark.parametrize("flags", [(), ("--tag",), ("-b",)], ids=" ".join)
def test_what_the_programs_themselves_write(
    tool: str, flags: tuple[str, ...], release: Path
) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not there")
    for odd in ("odd \n\\name\r", " blank", "*star", " *both", "*"):
        (release / odd).write_bytes(b"odd" + odd.encode())
    (release / "sub").mkdir()
    (release / "sub" / "consolidated.02.pth").write_bytes(b"below")
    names = sorted(str(p.relative_to(release)) for p in release.rglob("*") if p.is_file())
    done = subprocess.run(
        [tool, *flags, "--", *names], cwd=release, capture_output=True, check=True
    )
    (release / "checksums.txt").write_bytes(done.stdout)
    assert llamatools.check(release).problems == ()
    assert llamatools.check(release).files == len(names)
    for name in names:
        sound = (release / name).read_bytes()
        (release / name).write_bytes(sound[:-1] + b"?")
        assert blamed(release) == {name}
        (release / name).write_bytes(sound)


def test_the_lone_digest_of_one_file(release: Path) -> None:
    for name in NAMES:
        text = sums(release, "sha256", "{h}\n", (name,))
        (release / f"{name}.sha256").write_text(text)
    assert llamatools.check(release).problems == ()
    flipped(release / NAMES[1], 7)
    assert blamed(release) == {NAMES[1]}


def test_a_list_that_lists_itself(release: Path) -> None:
    text = sums(release, "sha256", "{h}  {n}\n") + f"{hashlib.sha256().hexdigest()}  SHA256SUMS\n"
    (release / "SHA256SUMS").write_text(text)
    found = llamatools.check(release)
    assert found.holds
    assert found.notes == ("SHA256SUMS lists itself, which no list can",)


def test_weights_that_no_list_has(release: Path) -> None:
    text = sums(release, "md5", "{h}  {n}\n", NAMES[:1])
    (release / "checklist.chk").write_text(text)
    (release / "tokenizer.model").write_bytes(b"?")
    found = llamatools.check(release)
    assert [(p.file, p.kind) for p in found.problems] == [(NAMES[1], "unlisted")]
    assert found.others == ("params.json", "tokenizer.model")
    (release / "more.chk").write_text(sums(release, "sha256", "{h}  {n}\n", NAMES[1:2]))
    assert llamatools.check(release).holds


def test_lists_in_a_folder_below(release: Path, tmp_path: Path) -> None:
    """As in a hub's repository, with Meta's files in `original`."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "README.md").write_text("?")
    release.rename(repository / "original")
    inner = repository / "original"
    (inner / "checklist.chk").write_text(sums(inner, "md5", "{h}  {n}\n"))
    found = llamatools.check(repository)
    assert (found.problems, found.by) == ((), ("original/checklist.chk",))
    (inner / "consolidated.02.pth").write_bytes(b"more")
    assert kinds(repository) == {"original/consolidated.02.pth": {"unlisted"}}
    (inner / "consolidated.02.pth").unlink()
    flipped(inner / NAMES[0], 99)
    assert blamed(repository) == {f"original/{NAMES[0]}"}


def test_weights_in_folders_that_no_list_speakssums(release: Path) -> None:
    (release / "checklist.chk").write_text(sums(release, "md5", "{h}  {n}\n"))
    (release / "gguf").mkdir()
    (release / "gguf/model.gguf").write_bytes(b"?")
    found = llamatools.check(release)
    assert (found.problems, found.others) == ((), ("gguf/",))


def test_two_lists_that_contradict_each_other(release: Path) -> None:
    (release / "checklist.chk").write_text(sums(release, "md5", "{h}  {n}\n"))
    (release / "SHA256SUMS").write_text(f"{'0' * 64}  {NAMES[0]}\n")
    (problem,) = llamatools.check(release).problems
    assert (problem.file, problem.by) == (NAMES[0], "SHA256SUMS")


def test_beside_a_document_of_ours(tmp_path: Path) -> None:
    out = make("hf", tmp_path)
    text = sums(
        out, "sha256", "{h}  {n}\n", ("model.safetensors", "config.json", "llamatools.json")
    )
    (out / "SHA256SUMS").write_text(text)
    found = llamatools.check(out)
    assert found.problems == ()
    assert found.by == ("llamatools.json", "SHA256SUMS")
    (out / "SHA256SUMS").write_text(text.replace(text[:5], "00000", 1))
    (problem,) = llamatools.check(out).problems
    assert (problem.file, problem.by) == ("model.safetensors", "SHA256SUMS")
    # What a list has may still not be added to what a document of ours has.
    (out / "extra.py").write_text("")
    (out / "SHA256SUMS").write_text(text + sums(out, "sha256", "{h}  {n}\n", ("extra.py",)))
    assert kinds(out) == {"extra.py": {"added"}}


H = hashlib.sha256(b"").hexdigest()
WRONG = {
    "words": "hello world\n",
    "a number of digits": f"{H[:-1]}  config.json\n",
    "too many digits": f"{H}00  config.json\n",
    "a digit that is none": f"{H[:-1]}g  config.json\n",
    "no name": f"{H}  \n",
    "a tag of another length": f"MD5 (config.json) = {H}\n",
    "a tag that is not known": f"WHIRLPOOL (config.json) = {H}{H}\n",
    "out": f"{H}  ../release/params.json\n",
    "out within": f"{H}  x/../../params.json\n",
    "out, in BSD's form": f"SHA256 (../x) = {H}\n",
    "absolute": f"{H}  /etc/passwd\n",
    "here": f"{H}  .\n",
    "doubled": f"{H}  a//b\n",
    "nul": f"{H}  a\0b\n",
    "json": '{"sha256": {}}\n',
    "binary": "\x7fELF\x01\x02\n",
    "lone": "deadbeef\n",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_lists_that_make_no_sense(text: str, release: Path) -> None:
    (release / "checksums.txt").write_text(sums(release, "sha256", "{h}  {n}\n") + text)
    assert kinds(release) == {"checksums.txt": {"list"}}
    (problem,) = llamatools.check(release).problems
    assert "line 4" in problem.text
    assert call("check", release).code == 1


def test_a_list_of_nothing_is_none(release: Path) -> None:
    (release / "checksums.txt").write_text("# to be done\n\n")
    done = call("check", release)
    assert done.code == 3
    assert "checksums.txt lists nothing" in done.err


def test_names_are_made_harmless(release: Path) -> None:
    (release / "checksums.txt").write_bytes(
        f"{H}  ::error::\x1b[31m\n".encode() + f"{H}  \xff\xfe\n".encode("latin-1")
    )
    for flags in ((), ("--json",)):
        done = call("check", release, *flags)
        assert done.code == 1
        assert "\x1b" not in done.out
        assert "::error" not in done.out
    assert [p["kind"] for p in done.json["folders"][0]["problems"][:2]] == ["missing"] * 2


def _many_lines() -> bytes:
    return b"\n" * 100_001


def _large() -> bytes:
    return b"#" * 16_000_001


def _many_wrong() -> bytes:
    return b"?\n" * 5000


def _many_missing() -> bytes:
    return b"".join(b"%s  %d\n" % (H.encode(), i) for i in range(5000))


@pytest.mark.parametrize("make_list", [_many_lines, _large, _many_wrong, _many_missing])
def test_large_lists_end_soon_and_in_few_words(
    make_list: Callable[[], bytes], release: Path
) -> None:
    (release / "checksums.txt").write_bytes(make_list())
    done = call("check", release)
    assert done.code == 1
    assert len(done.out.splitlines()) < 130


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _linked_folder(path: Path) -> None:
    path.symlink_to(path.parent)


@pytest.mark.parametrize("put", [_fifo, _link, _linked_folder])
@pytest.mark.parametrize("name", ["checklist.chk", "llamatools.json", "llamatools-delta.json"])
def test_sources_that_are_no_files(put: Callable[[Path], None], name: str, release: Path) -> None:
    put(release / name)
    assert kinds(release)[name] == {"not-a-file"}


@pytest.mark.parametrize("put", [_fifo, _link, _linked_folder])
def test_listed_names_that_are_no_files(put: Callable[[Path], None], release: Path) -> None:
    put(release / "x")
    (release / "SHA256SUMS").write_text(f"{H}  x\n{H}  x/params.json\n")
    found = kinds(release)
    assert (found["x"], found["x/params.json"]) == ({"not-a-file"}, {"missing"})
