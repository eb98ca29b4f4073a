"""A verification as one page of HTML: nothing is loaded from anywhere, nothing runs.

Light or dark as the reader's system is, readable on a telephone. Every string that comes from a
file is made harmless and escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from math import inf
from typing import Any

from llamatools.text import safe
from llamatools.verifying.charts import Dot, Line, by_point, by_position

Report = dict[str, Any]
_LIMIT = 2000
_MOST_DOTS = 256

_STYLE = """
:root { color-scheme: light dark; --page: #fcfcfb; --ink: #1a1a19; --soft: #5f5e5a;
  --rule: #e4e2dc; --card: #ffffff; --series: #2a6fb8; --faint: #b8cde4; --good: #17714a;
  --bad: #b3261e; --limit: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --page: #161615; --ink: #f0efec; --soft: #a9a79f;
  --rule: #34332f; --card: #1e1e1c; --series: #6fa8e6; --faint: #34506e; --good: #5cc795;
  --bad: #ff8a80; --limit: #e0b354; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 16px 48px; max-width: 944px; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 22px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 16px; margin: 32px 0 8px; }
p { margin: 4px 0; }
.soft, dt, th, figcaption { color: var(--soft); }
.verdict { display: inline-block; margin: 12px 0; padding: 4px 12px; border-radius: 6px;
  border: 1px solid currentColor; font-weight: 600; }
.good { color: var(--good); } .fails { color: var(--bad); }
dl { display: grid; grid-template-columns: minmax(84px, auto) 1fr; gap: 2px 16px; margin: 8px 0; }
dd { margin: 0; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 12px 16px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: right; padding: 4px 0 4px 16px; border-bottom: 1px solid var(--rule);
  font-weight: 400; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
figure { margin: 8px 0; }
svg { display: block; max-width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg .power { font-size: 9px; } svg .strong { fill: var(--bad); font-weight: 600; }
svg .grid { stroke: var(--rule); } svg line.limit { stroke: var(--limit); stroke-dasharray: 5 4; }
svg text.limit { fill: var(--limit); }
svg .series, svg .faint { fill: none; stroke: var(--series); stroke-width: 2; }
svg .faint { stroke: var(--faint); stroke-width: 1.5; }
svg .dot { fill: var(--series); } svg .bad { fill: var(--bad); }
.narrow { display: none; }
@media (max-width: 700px) { .wide { display: none; } .narrow { display: block; }
  th, td { padding-left: 10px; } }
pre { overflow-x: auto; font-size: 12px; margin: 0; }
summary { cursor: pointer; color: var(--soft); }
@media print { .card { break-inside: avoid; } }
"""


def html(report: Report) -> bytes:
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
    title = _text(f"{report['model']['title']}: {word}")
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        '<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"{''.join(sections)}</body>\n</html>\n"
    )
    return page.encode()


def _text(value: object) -> str:
    return escape(safe(value, _LIMIT))


def _pairs(items: Iterable[tuple[str, object]]) -> str:
    rows = (f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in items if v not in (None, ""))
    return f"<dl>{''.join(rows)}</dl>\n"


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
        f'<header><h1>{_text(model["title"])}</h1>\n<p class="soft">llamatools verify</p>\n'
        f'<p class="verdict {style}">{word}</p>\n{_pairs(items)}</header>\n'
    )


def _checks(report: Report) -> str:
    if not report["checks"]:
        problems = "".join(f'<p class="fails">{_text(p)}</p>' for p in report["problems"])
        return f"<section>{problems}</section>\n"
    overall = report["overall"]
    rows = [
        [_text(c["name"]), _number(c["found"]), f"{c['limit']:g}", _verdict(c["holds"])]
        for c in report["checks"]
        if c["limit"] is not None
    ]
    rows += [
        ["no NaN, no infinity", "", "", _verdict(c["holds"])]
        for c in report["checks"]
        if c["limit"] is None
    ]
    rows += [[name, _number(overall[key]), "", ""] for name, key in _SHOWN]
    beside = report["problems"][sum(not c["holds"] for c in report["checks"]) :]
    more = "".join(f'<p class="fails">{_text(p)}</p>' for p in beside)
    return f"<section><h2>Checks</h2>\n{_table(('', 'found', 'limit', ''), rows)}{more}</section>\n"


_SHOWN = (("max KL", "max_kl"), ("cosine", "cosine"), ("top-1 agrees", "top1"))


def _fault(report: Report) -> str:
    fault = report["fault"]
    if fault is None:
        return ""
    after = f", right until {fault['after']}" if fault["after"] else ""
    causes = "".join(f"<li>{_text(c['text'])}</li>" for c in fault["causes"])
    usually = f"<p>What that usually means:</p><ul>{causes}</ul>" if causes else ""
    return (
        '<section><h2>Where it goes wrong</h2>\n<div class="card">'
        f'<p><strong class="fails">{_text(fault["point"])}</strong>{_text(after)}; '
        f"error {_number(fault['error'])}</p>"
        f"<p>At {_text(fault['positions'])}.</p>{usually}</div></section>\n"
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
            f"{i}. {_text(p['name'])}",
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
    lines = "".join(f"<li>{_text(i)}</li>" for i in items)
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
        f"<section><h2>Environment</h2>\n{_pairs(items)}"
        f"<details><summary>All settings of the run</summary><pre>{raw}</pre></details></section>\n"
    )
