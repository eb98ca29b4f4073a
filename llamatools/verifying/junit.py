"""A verification as JUnit XML, which CI systems show as tests: one for every check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as ET

from llamatools.text import safe

_SUITE = "llamatools verify"
_LIMIT = 2000


def render(report: dict[str, Any]) -> bytes:
    """The XML of a report."""
    model = safe(report["model"]["path"], _LIMIT)
    checks = report["checks"]
    cases: list[tuple[str, str | None]] = [(_name(c), _failure(c)) for c in checks]
    # What fails beside checks comes after them.
    beside = report["problems"][sum(not c["holds"] for c in checks) :]
    cases += [("comparison", problem) for problem in beside]
    if not cases:
        cases.append(("fingerprint" if report["identical"] else "run", None))
    failures = [message for _, message in cases if message is not None]
    suite = _suite(len(cases), failures=len(failures))
    for name, message in cases:
        case = ET.SubElement(suite, "testcase", classname=model, name=safe(name, _LIMIT))
        if message is not None:
            failure = ET.SubElement(case, "failure", message=safe(message, _LIMIT))
            failure.text = safe(_where(report), _LIMIT)
    return _document(suite)


def unjudged(source: str, problems: Sequence[str], hint: str | None) -> bytes:
    """The XML of a run that came to no verdict: one test, which is in error."""
    suite = _suite(1, errors=1)
    case = ET.SubElement(suite, "testcase", classname=safe(source, _LIMIT), name="run")
    error = ET.SubElement(case, "error", message=safe(problems[0], _LIMIT))
    more = [*problems, *([f"hint: {hint}"] if hint else [])]
    error.text = "\n".join(safe(line, _LIMIT) for line in more)
    return _document(suite)


def _suite(tests: int, failures: int = 0, errors: int = 0) -> ET.Element:
    return ET.Element(
        "testsuite",
        name=_SUITE,
        tests=str(tests),
        failures=str(failures),
        errors=str(errors),
        skipped="0",
    )


def _document(suite: ET.Element) -> bytes:
    root = ET.Element("testsuites", name=_SUITE)
    root.append(suite)
    ET.indent(root)
    data: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


def _name(check: dict[str, Any]) -> str:
    limit = check["limit"]
    return str(check["name"]) if limit is None else f"{check['name']} <= {limit:g}"


def _failure(check: dict[str, Any]) -> str | None:
    if check["holds"]:
        return None
    found = check["found"]
    return "NaN or infinity" if found is None else f"{check['name']} is {found:.6g}"


def _where(report: dict[str, Any]) -> str:
    fault = report["fault"]
    if fault is None:
        return "; ".join(report["problems"])
    causes = "; ".join(c["text"] for c in fault["causes"])
    return f"first bad: {fault['point']}, at {fault['positions']}; usually: {causes or 'unknown'}"
