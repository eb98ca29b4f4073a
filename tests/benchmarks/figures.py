"""From runs to figures: medians, the two ratios to cp + fsync, and the targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from contenders import COPY, OURS_TO_HF, OURS_TO_META
from rounds import Outcome

OURS = {OURS_TO_HF: "Meta -> HF", OURS_TO_META: "HF -> Meta"}

_MAX_RATIO = 1.0
_MAX_RSS_MB = 150
_MAX_GROWTH = 1.10


@dataclass(frozen=True)
class Ratio:
    """Wall time over that of cp + fsync: of the medians, and the median over the rounds."""

    of_medians: float
    per_round: float


@dataclass(frozen=True)
class Target:
    text: str
    reached: bool


def wall(outcome: Outcome) -> float:
    return median(run.wall for run in outcome.runs)


def cpu(outcome: Outcome) -> float:
    return median(run.user + run.system for run in outcome.runs)


def peak_rss_mb(outcome: Outcome) -> float:
    return max(run.peak_rss for run in outcome.runs) / 1e6


def ratio(name: str, outcomes: Mapping[str, Outcome]) -> Ratio | None:
    """None unless both have been measured."""
    copy = outcomes.get(COPY)
    if copy is None or not copy.runs or not outcomes[name].runs:
        return None
    pairs = zip(outcomes[name].runs, copy.runs, strict=False)  # same round, same position
    return Ratio(
        of_medians=wall(outcomes[name]) / wall(copy),
        per_round=median(run.wall / copied.wall for run, copied in pairs),
    )


def targets(results: Mapping[str, Mapping[str, Outcome]]) -> list[Target]:
    """One line for each target that could be judged, by shape. Both ratios have to hold."""
    judged: list[Target] = []
    for shape, outcomes in results.items():
        for name, direction in OURS.items():
            if name not in outcomes or not outcomes[name].runs:
                continue
            if found := ratio(name, outcomes):
                text = (
                    f"{shape}: {direction} at most {_MAX_RATIO:.2f}x cp + fsync: "
                    f"{found.of_medians:.2f}x medians, {found.per_round:.2f}x per round"
                )
                reached = max(found.of_medians, found.per_round) <= _MAX_RATIO
                judged.append(Target(text, reached))
            rss = peak_rss_mb(outcomes[name])
            text = f"{shape}: {direction} peak RSS at most {_MAX_RSS_MB} MB: {rss:.0f} MB"
            judged.append(Target(text, rss <= _MAX_RSS_MB))
    return judged + _growth(results)


def _growth(results: Mapping[str, Mapping[str, Outcome]]) -> list[Target]:
    judged: list[Target] = []
    for name, direction in OURS.items():
        small, large = (results.get(shape, {}).get(name) for shape in ("1b", "8b"))
        if small and large and small.runs and large.runs:
            grown = peak_rss_mb(large) / peak_rss_mb(small)
            text = f"{direction} peak RSS at 8b at most {_MAX_GROWTH:.2f}x that at 1b: {grown:.2f}x"
            judged.append(Target(text, grown <= _MAX_GROWTH))
    return judged
