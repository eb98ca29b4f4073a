"""The one way YAML enters: PyYAML's safe loader, kept from what could hurt it or mislead.

Of YAML only what settings need: no key twice in a mapping, no tags, no numbers in base 60, and no
references to lists and mappings, a few hundred bytes of which make gigabytes when printed.
"""

from __future__ import annotations

from collections.abc import Hashable

import yaml

from llamatools.errors import BadInput
from llamatools.jsonio import MAX_DIGITS
from llamatools.text import count, nbytes, safe

MAX_BYTES = 1_000_000
MAX_DEPTH = 64
MAX_VALUES = 20_000
"""Each takes PyYAML some 50 µs."""

_CANNOT_BE_READ = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What PyYAML's constructors raise, besides its own errors."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        seen: set[object] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                line = key.start_mark.line + 1
                raise BadInput(f"line {line} holds a key for the second time: {safe(key.value)}")
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        digits = _without_colons(node).value.replace("_", "").lstrip("+-")
        if len(digits) > MAX_DIGITS:  # in any base
            raise ValueError(f"an integer of {len(digits)} digits: {safe(digits, 20)}")
        return super().construct_yaml_int(node)

    def construct_real(self, node: yaml.ScalarNode) -> float:
        return super().construct_yaml_float(_without_colons(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_real)


def _without_colons(node: yaml.ScalarNode) -> yaml.ScalarNode:
    """1:30 is 90 by YAML 1.1, text by YAML 1.2, and most of all a mistake."""
    if ":" in node.value:
        line = node.start_mark.line + 1
        raise BadInput(f"line {line} holds a number in base 60: {safe(node.value, 20)}")
    return node


def load_yaml_object(data: bytes, where: str) -> dict[str, object]:
    """The mapping that `data` spells. `where` names the source in messages.

    Raises BadInput for anything else, and for what no settings file holds.
    """
    try:
        value = yaml.load(_checked_text(data), _Loader)
    except yaml.MarkedYAMLError as e:
        at = e.problem_mark or e.context_mark
        line = f" at line {at.line + 1} column {at.column + 1}" if at else ""
        what = ", ".join(filter(None, (e.context, e.problem)))
        problem = f"not valid YAML: {safe(what)}{line}"
    except BadInput as e:
        problem = str(e)
    except yaml.YAMLError as e:
        problem = f"not valid YAML: {safe(e, 100)}"
    except _CANNOT_BE_READ as e:  # a number of 5,000 digits, the 30th of February
        problem = f"holds a value that cannot be read: {safe(e, 100)}"
    else:
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return value
        problem = "expected a mapping whose keys are text"
    raise BadInput(f"{safe(where)}: {problem}")


def _checked_text(data: bytes) -> str:
    """What can be told from the events of the parser, which needs no stack for depth."""
    if len(data) > MAX_BYTES:
        raise BadInput(f"{nbytes(len(data))} of YAML, more than the {nbytes(MAX_BYTES)} allowed")
    try:
        text = data.decode()
    except UnicodeDecodeError as e:
        raise BadInput(f"not UTF-8: {e.reason} at byte {e.start}") from None
    depth = 0
    plain: set[str | None] = set()
    for i, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if i >= MAX_VALUES:
            raise BadInput(f"more than {count(MAX_VALUES, 'value')}")
        if depth > MAX_DEPTH:
            raise BadInput(f"nested more than {MAX_DEPTH} levels deep")
        if tag := getattr(event, "tag", None):
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise BadInput(f"line {line} holds a tag, which no settings need: {safe(tag)}")
        if isinstance(event, yaml.ScalarEvent):
            plain.add(event.anchor)
        elif isinstance(event, yaml.AliasEvent) and event.anchor not in plain:
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise BadInput(f"line {line} stands for a list or a mapping elsewhere: write it out")
    return text
