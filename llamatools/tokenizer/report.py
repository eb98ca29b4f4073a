"""Reports on tokenizers, as --json prints them; schemas/tokenizer-*.json describe them."""

from __future__ import annotations

from dataclasses import asdict

from llamatools.tokenizer.combine import TokenizerFiles
from llamatools.tokenizer.compare import Comparison, Mismatch
from llamatools.tokenizer.forms import Written
from llamatools.tokenizer.known import official_name
from llamatools.tokenizer.merge import Merged
from llamatools.tokenizer.ranks import Ranks
from llamatools.tokenizer.tokenizer import Tokenizer

Report = dict[str, object]


def inspection(files: TokenizerFiles) -> Report:
    """What a tokenizer is."""
    tokenizer = files.tokenizer
    return {
        "$schema": "urn:llamatools:tokenizer-inspect:1",
        "form": files.form,
        "kind": tokenizer.kind,
        "size": tokenizer.size,
        "base_size": tokenizer.base_size,
        "roles": asdict(tokenizer.roles),
        "version": tokenizer.version.key if tokenizer.version else None,
        "official": official_name(files),
        "sha256": files.sha256,
        "digest": digest(tokenizer),
        "dummy_prefix": not isinstance(tokenizer.base, Ranks) and tokenizer.base.dummy_prefix,
        "specials": [{"id": i, "text": text} for i, text in tokenizer.specials.items()],
        "added": [asdict(a) for a in tokenizer.added if not a.special],
        "chat_template": files.has_chat_template,
        "tied_scores": 0 if isinstance(tokenizer.base, Ranks) else len(tokenizer.base.tied),
        "deviations": list(files.deviations),
        "conflicts": list(files.conflicts),
        "notes": list(files.notes),
    }


def digest(tokenizer: Tokenizer) -> str:
    """BLAKE3 of what the tokens are: equal for every form of one tokenizer, whatever the names of
    its special tokens."""
    from blake3 import blake3

    hasher = blake3(b"llamatools tokenizer 1\n")
    plain = tokenizer.token_bytes
    for i in range(tokenizer.size):
        token = plain.get(i)
        hasher.update(b"-\n" if token is None else b"%d %b\n" % (len(token), token))
    return hasher.hexdigest()


def conversion(files: TokenizerFiles, written: Written, checked: Comparison | None) -> Report:
    """What `tokenizer convert` wrote."""
    return {
        "$schema": "urn:llamatools:tokenizer-convert:1",
        "kind": written.tokenizer.kind,
        "size": written.tokenizer.size,
        "files": {name: len(data) for name, data in written.documents.items()},
        "exact": not written.losses,
        "losses": list(written.losses),
        "texts_compared": checked.texts if checked else 0,
        "mismatches": checked.mismatches if checked else 0,
        "conflicts": list(files.conflicts),
        "notes": [*files.notes, *written.notes],
    }


def merging(written: Written, merged: Merged) -> Report:
    """What `tokenizer merge` made."""
    return {
        "$schema": "urn:llamatools:tokenizer-merge:1",
        "size": written.tokenizer.size,
        "added": merged.added,
        "shared": merged.shared,
        "files": {name: len(data) for name, data in written.documents.items()},
        "losses": list(written.losses),
    }


def comparison(a: str, b: str, result: Comparison) -> Report:
    """What `compare` found."""
    return {
        "$schema": "urn:llamatools:tokenizer-compare:1",
        "a": a,
        "b": b,
        "equal": result.equal,
        "texts": result.texts,
        "mismatches": result.mismatches,
        "groups": {
            name: {"texts": n, "mismatches": bad} for name, (n, bad) in result.groups.items()
        },
        "first": _mismatch(result.first) if result.first else None,
        "specials": list(result.specials),
    }


def _mismatch(m: Mismatch) -> Report:
    return {
        "text": m.text,
        "what": m.what,
        "at": m.at,
        "ids_a": list(m.a),
        "ids_b": list(m.b),
        "decoded_a": m.decoded_a,
        "decoded_b": m.decoded_b,
    }
