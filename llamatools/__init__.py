"""llamatools: detect, convert, fingerprint and prove Llama checkpoints.

    import llamatools

    with llamatools.open_checkpoint("Llama-3.1-8B") as ck:
        ck.spec, ck.identity.title            # what it is
        for name, tensor in ck.values.items():  # lazy: shapes and dtypes, no data
            print(name, tensor.dtype, tensor.shape)

    llamatools.convert("Llama-3.1-8B", "out", llamatools.Options(to="hf"))
    llamatools.fingerprint("out").digest
    llamatools.check("out").holds
    llamatools.verify("out", "golden.safetensors").holds

    llamatools.answer(llamatools.read_subject("out"), llamatools.Question(tp=2)).report  # memory

Names are resolved on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from llamatools._version import __version__

if TYPE_CHECKING:
    from llamatools.checking.check import Checked, check
    from llamatools.checkpoint import Checkpoint, open_checkpoint
    from llamatools.conversion import convert, prepare, run
    from llamatools.deltas.apply import apply_delta
    from llamatools.deltas.decode import decode_delta
    from llamatools.deltas.make import make_delta
    from llamatools.errors import LlamatoolsError
    from llamatools.extraction.choice import Extract
    from llamatools.extraction.extract import extract_lora
    from llamatools.fingerprints import Fingerprint, differences, fingerprint
    from llamatools.golden.model import Golden
    from llamatools.golden.read import open_golden
    from llamatools.inspection import inspect
    from llamatools.memory.question import Question
    from llamatools.memory.report import Answer, answer
    from llamatools.memory.source import read_subject
    from llamatools.memory.subject import Subject
    from llamatools.merging.prepare import Merge, prepare_merge
    from llamatools.plan.build import Options, plan_conversion
    from llamatools.plan.plan import Plan
    from llamatools.prepared import Prepared
    from llamatools.readback import verified
    from llamatools.reading import read_tensor
    from llamatools.reference.settings import Settings
    from llamatools.spec import ModelSpec, RopeScaling
    from llamatools.swapping import Swap, prepare_swap
    from llamatools.tokenizer.between import compare_tokenizers
    from llamatools.tokenizer.opening import open_tokenizer
    from llamatools.tokenizing import convert_tokenizer, merge_tokenizers
    from llamatools.verifying.calls import create_golden, verify
    from llamatools.verifying.verdict import Wishes

_HOMES = {
    "Answer": "memory.report",
    "Checked": "checking.check",
    "Checkpoint": "checkpoint",
    "Extract": "extraction.choice",
    "Fingerprint": "fingerprints",
    "Golden": "golden.model",
    "LlamatoolsError": "errors",
    "Merge": "merging.prepare",
    "ModelSpec": "spec",
    "Options": "plan.build",
    "Plan": "plan.plan",
    "Prepared": "prepared",
    "Question": "memory.question",
    "RopeScaling": "spec",
    "Settings": "reference.settings",
    "Subject": "memory.subject",
    "Swap": "swapping",
    "Wishes": "verifying.verdict",
    "answer": "memory.report",
    "apply_delta": "deltas.apply",
    "check": "checking.check",
    "compare_tokenizers": "tokenizer.between",
    "convert": "conversion",
    "convert_tokenizer": "tokenizing",
    "create_golden": "verifying.calls",
    "decode_delta": "deltas.decode",
    "differences": "fingerprints",
    "extract_lora": "extraction.extract",
    "fingerprint": "fingerprints",
    "inspect": "inspection",
    "make_delta": "deltas.make",
    "merge_tokenizers": "tokenizing",
    "open_checkpoint": "checkpoint",
    "open_golden": "golden.read",
    "open_tokenizer": "tokenizer.opening",
    "plan_conversion": "plan.build",
    "prepare": "conversion",
    "prepare_merge": "merging.prepare",
    "prepare_swap": "swapping",
    "read_subject": "memory.source",
    "read_tensor": "reading",
    "run": "conversion",
    "verified": "readback",
    "verify": "verifying.calls",
}

__all__ = [
    "Answer",
    "Checked",
    "Checkpoint",
    "Extract",
    "Fingerprint",
    "Golden",
    "LlamatoolsError",
    "Merge",
    "ModelSpec",
    "Options",
    "Plan",
    "Prepared",
    "Question",
    "RopeScaling",
    "Settings",
    "Subject",
    "Swap",
    "Wishes",
    "__version__",
    "answer",
    "apply_delta",
    "check",
    "compare_tokenizers",
    "convert",
    "convert_tokenizer",
    "create_golden",
    "decode_delta",
    "differences",
    "extract_lora",
    "fingerprint",
    "inspect",
    "make_delta",
    "merge_tokenizers",
    "open_checkpoint",
    "open_golden",
    "open_tokenizer",
    "plan_conversion",
    "prepare",
    "prepare_merge",
    "prepare_swap",
    "read_subject",
    "read_tensor",
    "run",
    "verified",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"llamatools.{_HOMES[name]}"), name)
