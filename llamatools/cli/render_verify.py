"""`verify` and `golden`, and --verify, as a person reads them on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llamatools.cli.render import Report, label_row, make_console, pairs
from llamatools.text import count, safe

_MAX_CAUSES = 4
_MAX_PROMPTS = 12


def show_verdict(report: Report) -> None:
    """`verify`."""
    console = make_console()
    title = escape(report["model"]["title"])
    word = "[bold green]holds[/]" if report["holds"] else "[bold red]does not hold[/]"
    console.print(f"[bold]{title}[/]: {word}")
    table = pairs()
    label_row(table, "model", report["model"]["path"])
    reference = report["reference"]
    if reference is not None:
        label_row(table, reference["kind"], reference["path"] + _whose(reference))
    if report["identical"]:
        label_row(table, "equal", "the same fingerprint and settings: there is nothing to run")
    if report["gate"] is not None:
        label_row(
            table, "gate", f"{report['gate']['name']} ({report['gate']['why'] or 'as given'})"
        )
    console.print(table)
    _checks(console, report)
    _prompts(console, report)
    _fault(console, report)
    for problem in report["problems"][sum(not c["holds"] for c in report["checks"]) :]:
        console.print(f"[red]fails:[/] {escape(safe(problem, 400))}")
    _perplexity(console, report)
    for difference in report["differences"]:
        console.print(f"[yellow]differs:[/] {escape(safe(difference, 400))}")
    for note in report["notes"]:
        console.print(f"[dim]note:[/] {escape(safe(note, 400))}")


def _whose(reference: Report) -> str:
    generator = reference["generator"]
    if reference["kind"] == "checkpoint" or generator in (None, "unknown"):
        return ""
    version = reference["versions"].get(generator)
    dtype = "" if reference["dtype"] in generator else f", {reference['dtype']}"
    return f" ({generator}{f' {version}' if version else ''}{dtype})"


def _checks(console: Console, report: Report) -> None:
    """Gated numbers with their limits, then those that are merely shown."""
    if not report["checks"]:
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for name in ("found", "limit"):
        table.add_column(name, justify="right")
    table.add_column("")
    for c in report["checks"]:
        if c["limit"] is None:
            continue
        word = "[green]holds[/]" if c["holds"] else "[red]fails[/]"
        table.add_row(escape(c["name"]), _number(c["found"]), f"{c['limit']:g}", word)
    overall = report["overall"]
    for name, value in (("max KL", overall["max_kl"]), ("cosine", overall["cosine"])):
        table.add_row(name, _number(value), "", "")
    table.add_row("top-1 agrees", f"{overall['top1']:.1%}", "", "")
    console.print(table)
    if not all(c["holds"] for c in report["checks"] if c["limit"] is None):
        console.print("[red]fails:[/] NaN or infinity")
    if overall["outside"] > 0:
        console.print(
            f"[dim]KL is estimated for {overall['outside']:.1%} of the probability: what lies "
            "outside the golden's top logits[/]"
        )


def _prompts(console: Console, report: Report) -> None:
    if not report["prompts"]:
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("prompt")
    for name in ("positions", "rms/std", "mean KL", "top-1"):
        table.add_column(name, justify="right")
    for p in report["prompts"][:_MAX_PROMPTS]:
        table.add_row(
            escape(safe(p["name"], 40)),
            f"{p['positions']:,}",
            _number(p["rms"]),
            _number(p["mean_kl"]),
            f"{p['top1']:.1%}",
        )
    console.print(table)
    left = len(report["prompts"]) - _MAX_PROMPTS
    if left > 0:
        console.print(f"[dim]and {count(left, 'more prompt')}: see --json[/]")


def _number(value: float | None) -> str:
    """In as many characters for any small number."""
    if value is None:
        return "none"
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"


def _fault(console: Console, report: Report) -> None:
    fault = report["fault"]
    if fault is None:
        return
    after = f" (right until {fault['after']})" if fault["after"] else ""
    error = "" if fault["error"] is None else f", error {fault['error']:.3g}"
    console.print(f"[red]first bad:[/] {escape(fault['point'])}{escape(after)}{error}")
    table = pairs()
    label_row(table, "at", fault["positions"])
    for i, cause in enumerate(fault["causes"][:_MAX_CAUSES]):
        label_row(table, "usually" if i == 0 else "or", cause["text"])
    console.print(table)


def _perplexity(console: Console, report: Report) -> None:
    found, other = report["perplexity"], report["perplexity_of_other"]
    if found is None:
        return
    text = f"{_number(found['perplexity'])} on {count(found['tokens'], 'token')}"
    if other is not None:
        text += f"; the other's {_number(other['perplexity'])}"
    if found["left_out"]:
        text += f" ({found['left_out']:,} more left out)"
    console.print(f"perplexity {text}")


def show_verified(v: Report) -> None:
    """What `convert` and its like read back, and what the model answered."""
    console = make_console()
    table = pairs()
    equal = f"{count(v['files'], 'file')} and {count(v['tensors'], 'tensor')}, as they were written"
    label_row(table, "read back", equal)
    golden = v["golden"]
    if golden is not None:
        limits = (c for c in golden["checks"] if c["limit"] is not None)
        found = (f"{c['name']} {_number(c['found'])} (limit {c['limit']:g})" for c in limits)
        label_row(table, "golden", f"{golden['path']}: holds")
        label_row(table, "gate", f"{golden['gate']['name']} ({golden['gate']['why']})")
        label_row(table, "found", ", ".join(found))
    console.print(table)
    for note in golden["notes"] if golden is not None else ():
        console.print(f"[dim]note:[/] {escape(safe(note, 400))}")


def show_golden(path: str, report: Report) -> None:
    """`golden inspect`, `create` and `import`."""
    console = make_console()
    console.print(f"[bold]{escape(safe(path))}[/]")
    model, generator = report["model"], report["generator"]
    table = pairs()
    label_row(table, "model", model["title"] or "unknown")
    if model["fingerprint"]:
        label_row(table, "fingerprint", model["fingerprint"])
    versions = ", ".join(f"{name} {v}" for name, v in generator["versions"].items())
    label_row(table, "made by", f"{generator['name']}{f' ({versions})' if versions else ''}")
    label_row(table, "computed in", report["dtype"])
    noise = report["noise"]
    if noise is not None:
        label_row(table, "noise", f"rms/std {noise['rms']:.3g}, against {noise['wider']}")
    points = count(len(report["points"]), "point") if report["points"] else "none"
    label_row(table, "hidden states", points)
    console.print(table)
    rows = Table(box=None, pad_edge=False, header_style="dim")
    rows.add_column("prompt")
    for name in ("positions", "from", "to", "full logits"):
        rows.add_column(name, justify="right")
    for p in report["prompts"]:
        numbers = (p["positions"], p["first"], p["last"], p["full_logits"])
        rows.add_row(escape(safe(p["name"], 40)), *(f"{n:,}" for n in numbers))
    console.print(rows)
    for note in report["notes"]:
        console.print(f"[dim]note:[/] {escape(safe(note, 400))}")
