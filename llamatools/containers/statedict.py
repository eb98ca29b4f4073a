"""Finds the tensors of a model in what a checkpoint's pickle holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llamatools.containers.pickleglobals import PickledTensor, Storage
from llamatools.containers.problems import refuse_if
from llamatools.dtypes import DType
from llamatools.errors import BadInput
from llamatools.text import safe

_WRAPPERS = ("model", "model_state", "model_state_dict", "module", "state_dict")
"""Keys under which training code keeps the model, with its own state beside it."""

_HINT = "re-save only the model's tensors: torch.save(model.state_dict(), ...)"


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, and what was around them."""

    tensors: Mapping[str, PickledTensor]
    key: str | None = None
    """The key they were nested under."""
    beside: tuple[str, ...] = ()
    """The other keys then; none of them holds tensors of its own."""


def find_state_dict(value: object, where: str) -> StateDict:
    """A dict of tensors, or the one dict of tensors among the values of a dict.

    Raises BadInput naming every entry that is neither.
    """
    if not isinstance(value, dict):
        raise BadInput(
            f"{safe(where)}: holds {_kind(value)}, expected a dict of tensors", hint=_HINT
        )
    nested = [k for k, v in value.items() if _holds_tensors(v)]
    if len(nested) == 1 and nested[0] in _WRAPPERS and not _holds_tensors(value):
        inner = value[nested[0]]
        _check(inner, f"{where}: {nested[0]}")
        return StateDict(inner, nested[0], tuple(str(k) for k in value if k != nested[0]))
    _check(value, where)
    return StateDict(value)


def _holds_tensors(value: object) -> bool:
    """Whether a tensor is among the values of this dict; what lies deeper does not count."""
    return isinstance(value, dict) and any(isinstance(v, PickledTensor) for v in value.values())


def _check(entries: dict[object, object], where: str) -> None:
    """Raise unless every key is a string and every value a tensor."""
    problems = [f"{safe(where)}: key {key} is not a string" for key in entries if type(key) is int]
    problems += [
        f"{safe(where)}: {safe(key)} is {_kind(value)}, expected a tensor"
        for key, value in entries.items()
        if not isinstance(value, PickledTensor)
    ]
    refuse_if(problems, hint=_HINT)


_WORDS = {PickledTensor: "a tensor", Storage: "a storage", DType: "an element type"}


def _kind(value: object) -> str:
    """What a value is, without going into it: it may be large, deep or contain itself."""
    if isinstance(value, (dict, list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, (str, int, float, type(None))):
        return safe(repr(value), 40)
    return _WORDS.get(type(value), f"a value of type {type(value).__name__}")
