"""A page of HTML: nothing is loaded from anywhere, nothing runs.

Light or dark as the reader's system is, readable on a telephone. Every string that comes from a
file is made harmless and escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from llamatools.text import safe

_LIMIT = 2000

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
.good { color: var(--good); } .fails { color: var(--bad); } .unjudged { color: var(--limit); }
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


def page(title: str, sections: Iterable[str]) -> bytes:
    """The whole of it, in UTF-8; sections are HTML already."""
    out = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        '<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"{''.join(sections)}</body>\n</html>\n"
    )
    return out.encode()


def text(value: object) -> str:
    """Words from anywhere."""
    return escape(safe(value, _LIMIT))


def pairs(items: Iterable[tuple[str, object]]) -> str:
    """Names and what they are; what is empty is left out."""
    rows = (f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in items if v not in (None, ""))
    return f"<dl>{''.join(rows)}</dl>\n"
