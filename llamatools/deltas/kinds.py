"""Kinds of deltas, and what a base's missing rows are taken for before something is added."""

from __future__ import annotations

from dataclasses import dataclass

ADD, XOR = "add", "xor"
ZEROS, MEAN = "zeros", "mean"


@dataclass(frozen=True)
class Kind:
    """How a delta is applied."""

    operation: str
    """ADD or XOR."""
    padding: str | None = None
    """What the base's new rows are before: ZEROS, MEAN (of its own rows), or None: there are no
    new rows."""
    whole: bool = False
    """The delta's embedding and head are the result's own, and nothing is added to them."""
    release: bool = False
    """It is a known release, whose sum of all values must come out."""

    @property
    def title(self) -> str:
        """For people."""
        if self.operation == XOR:
            return "exact delta"
        if self.whole:
            return "additive delta, embedding and head whole"
        over = {ZEROS: ", new rows over zeros", MEAN: ", new rows over the mean", None: ""}
        return "additive delta" + over[self.padding]


KINDS = {
    "add": Kind(ADD),
    "pad-zeros": Kind(ADD, ZEROS),
    "vicuna-v0": Kind(ADD, ZEROS),
    "pad-mean": Kind(ADD, MEAN),
    "alpaca": Kind(ADD, MEAN, release=True),
    "whole-vocabulary": Kind(ADD, whole=True),
    "ziya": Kind(ADD, whole=True),
    "xor": Kind(XOR),
}
"""By the words of --kind."""

TO_MAKE = (ADD, XOR)
"""What make-delta makes."""
