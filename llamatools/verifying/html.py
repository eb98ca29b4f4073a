"""A verification as one page of HTML (see page.py): what was found, and how it was run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from math import inf
from typing import Any

from llamatools.text import safe
from llamatools.verifying.charts import Dot, Line, by_point, by_position
from llamatools.verifying.page import page, pairs, text

Report = dict[str, Any]
_MOST_DOTS = 256


def render(report: Report) -> bytes:
    """The page, in UTF-8."""
    word = "holds" if report["holds"] else "does not hold"
    sections = (
        _head(report),
        _checks(report),
        _fault(report),
        _charts(report),
        _prompts(report),
        _remarks(report),
        _environment(report),
    )
    return page(f"{report['model']['title']}: {word}", sections)


def unjudged(source: str, problems: Sequence[str], hint: str | None) -> bytes:
    """The page of a run that came to no verdict, and why."""
    why = "".join(f"<p>{text(p)}</p>" for p in problems)
    more = f'<p class="soft">{text(f"hint: {hint}")}</p>' if hint else ""
    head = (
        f'<header><h1>{text(source)}</h1>\n<p class="soft">llamatools verify</p>\n'
        '<p class="verdict unjudged">could not be judged</p></header>\n'
    )
    return page(
        f"{source}: could not be judged",
        (head, f'<section><div class="card">{why}{more}</div></section>\n'),
    )


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.3g}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML already."""
    top = "".join(f'<th scope="col">{h}</th>' for h in head)
    body = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>\n" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def _verdict(holds: bool) -> str:
    return '<span class="good">✓ holds</span>' if holds else '<span class="fails">✗ fails</span>'


def _head(report: Report) -> str:
    model, reference, gate = report["model"], report["reference"], report["gate"]
    style, word = ("good", "✓ holds") if report["holds"] else ("fails", "✗ does not hold")
    items: list[tuple[str, object]] = [
        ("model", model["path"]),
        ("layout", f"{model['layout']}, {model['weights']}"),
    ]
    if reference is not None:
        versions = ", ".join(f"{k} {v}" for k, v in reference["versions"].items())
        items += [
            (reference["kind"], reference["path"]),
            ("made by", f"{reference['generator'] or ''}{f' ({versions})' if versions else ''}"),
            ("computed in", reference["dtype"]),
            ("fingerprint", reference["fingerprint"]),
        ]
    if gate is not None:
        items.append(("gate", f"{gate['name']} ({gate['why'] or 'as given'})"))
    if report["identical"]:
        items.append(("equal", "the same fingerprint and settings: there is nothing to compare"))
    found = report["perplexity"]
    if found is not None:
        items.append(("perplexity", f"{_number(found['perplexity'])}, {found['tokens']:,} tokens"))
    other = report["perplexity_of_other"]
    if other is not None:
        items.append(("the other's", _number(other["perplexity"])))
    return (
        f'<header><h1>{text(model["title"])}</h1>\n<p class="soft">llamatools verify</p>\n'
        f'<p class="verdict {style}">{word}</p>\n{pairs(items)}</header>\n'
    )


def _checks(report: Report) -> str:
    if not report["checks"]:
        problems = "".join(f'<p class="fails">{text(p)}</p>' for p in report["problems"])
        return f"<section>{problems}</section>\n"
    overall = report["overall"]
    rows = [
        [text(c["name"]), _number(c["found"]), f"{c['limit']:g}", _verdict(c["holds"])]
        for c in report["checks"]
        if c["limit"] is not None
    ]
    rows += [
        ["no NaN, no infinity", "", "", _verdict(c["holds"])]
        for c in report["checks"]
        if c["limit"] is None
    ]
    rows += [[name, _number(overall[key]), "", ""] for name, key in _SHOWN]
    rows.append(["top-1 agrees", f"{overall['top1']:.1%}", "", ""])
    beside = report["problems"][sum(not c["holds"] for c in report["checks"]) :]
    more = "".join(f'<p class="fails">{text(p)}</p>' for p in beside)
    return f"<section><h2>Checks</h2>\n{_table(('', 'found', 'limit', ''), rows)}{more}</section>\n"


_SHOWN = (("max KL", "max_kl"), ("cosine", "cosine"))


def _fault(report: Report) -> str:
    fault = report["fault"]
    if fault is None:
        return ""
    after = f", right until {fault['after']}" if fault["after"] else ""
    causes = "".join(f"<li>{text(c['text'])}</li>" for c in fault["causes"])
    usually = f"<p>What that usually means:</p><ul>{causes}</ul>" if causes else ""
    return (
        '<section><h2>Where it goes wrong</h2>\n<div class="card">'
        f'<p><strong class="fails">{text(fault["point"])}</strong>{text(after)}; '
        f"error {_number(fault['error'])}</p>"
        f"<p>At {text(fault['positions'])}.</p>{usually}</div></section>\n"
    )


def _charts(report: Report) -> str:
    if report["gate"] is None:
        return ""
    out = []
    limit = Line("limit", report["gate"]["rms"])
    if report["points"]:
        end = report["overall"]["rms"]
        dots = [*(Dot(p["point"], p["error"]) for p in report["points"]), Dot("logits", end)]
        most = [*(Dot(p["point"], p["largest"]) for p in report["points"]), Dot("logits", end)]
        names = [d.label for d in dots]
        fault = report["fault"]
        point = None if fault is None else fault["point"].replace("head", "logits")
        bad = names.index(point) if point in names else None
        chart = by_point("Divergence by layer", dots, most, limit, bad)
        out.append(
            f"<section><h2>Divergence by layer</h2>\n<figure>{chart}<figcaption>rms(difference) / "
            "rms(golden) of hidden states at every point, and of logits by their spread; pale: the "
            "largest of a single position; 0 is drawn at the bottom</figcaption></figure>"
            "</section>\n"
        )
    prompts = [_dots(p) for p in report["prompts"]]
    chart = by_position("Divergence by position", prompts, limit)
    out.append(
        f"<section><h2>Divergence by position</h2>\n<figure>{chart}<figcaption>rms(difference) / "
        "std(logits) of every position; a band is a prompt, numbered as below"
        "</figcaption></figure></section>\n"
    )
    return "".join(out)


def _dots(prompt: Report) -> list[Dot]:
    """The error of every position; of long prompts, the worst of some neighbours."""
    name = safe(prompt["name"], 60)
    errors = list(zip(prompt["at"], prompt["error"], strict=True))
    step = -(-len(errors) // _MOST_DOTS)
    parts = [errors[i : i + step] for i in range(0, len(errors), step)]
    worst = (max(part, key=lambda e: inf if e[1] is None else e[1]) for part in parts)
    return [Dot(f"{name}, position {at}", error) for at, error in worst]


def _prompts(report: Report) -> str:
    if not report["prompts"]:
        return ""
    rows = [
        [
            f"{i}. {text(p['name'])}",
            f"{p['positions']:,}",
            _number(p["rms"]),
            _number(p["mean_kl"]),
            f"{p['top1']:.1%}",
        ]
        for i, p in enumerate(report["prompts"], 1)
    ]
    head = ("prompt", "positions", "rms/std", "mean KL", "top-1")
    return f"<section><h2>Prompts</h2>\n{_table(head, rows)}</section>\n"


def _remarks(report: Report) -> str:
    items = [*(f"differs: {d}" for d in report["differences"]), *report["notes"]]
    if not items:
        return ""
    lines = "".join(f"<li>{text(i)}</li>" for i in items)
    return f"<section><h2>Remarks</h2>\n<ul>{lines}</ul></section>\n"


def _environment(report: Report) -> str:
    e = report["environment"]
    versions = ", ".join(f"{k} {v}" for k, v in e["versions"].items())
    items: list[tuple[str, object]] = [
        ("system", e["system"]),
        ("python", e["python"]),
        ("versions", versions),
    ]
    items += [
        ("run", f"{r.get('device')}, {r.get('dtype')}, {r.get('seconds', 0):.3g} s")
        for r in e["runs"]
    ]
    raw = escape(json.dumps(e["runs"], indent=1))
    return (
        f"<section><h2>Environment</h2>\n{pairs(items)}"
        f"<details><summary>All settings of the run</summary><pre>{raw}</pre></details></section>\n"
    )
