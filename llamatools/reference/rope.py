"""Rotary positions: the angles by which pairs of a head's elements are turned.

Su et al. 2021 (RoFormer), section 3.4.2; "llama3" as in `apply_scaling` of Meta's llama-models;
"linear" as Chen et al. 2023, section 2.3: positions closer together.

Meta's code and transformers take angles in fp32, and so did training: at position 4127 they are up
to 2e-4 from the exact ones, which logits show. So do we, in every type but fp64, where they are
exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi

import torch

from llamatools.errors import Unsupported
from llamatools.reference.settings import at_least_fp32
from llamatools.spec import ModelSpec, RopeScaling
from llamatools.text import safe


def _unscaled(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    return frequencies


def _linear(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    return frequencies / scaling.factor


def _llama3(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Long waves are stretched by the factor, short ones not, those between in part."""
    low, high, context = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_context
    assert low is not None and high is not None and context is not None
    waves = 2 * pi / frequencies  # lengths, in positions
    stretched = frequencies / scaling.factor
    smooth = (context / waves - low) / (high - low)  # 0 at context / low, 1 at context / high
    between = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    out = torch.where(waves > context / low, stretched, between)
    return torch.where(waves < context / high, frequencies, out)


_KINDS: dict[str, Callable[[torch.Tensor, RopeScaling], torch.Tensor]] = {
    "default": _unscaled,
    "linear": _linear,
    "llama3": _llama3,
}
_NONE = RopeScaling("default", 1.0)


def check_scaling(spec: ModelSpec) -> None:
    """Unsupported where frequencies are scaled as we do not know."""
    scaling = spec.rope_scaling or _NONE
    problems = []
    if scaling.kind not in _KINDS:
        problems.append(f"rope scaling {safe(scaling.kind)}: expected {', '.join(_KINDS)}")
    if spec.head_dim % 2:
        problems.append(f"heads of {spec.head_dim} elements: an odd number makes no pairs")
    if problems:
        raise Unsupported(problems, hint="the weights can be converted and fingerprinted")


def frequencies(spec: ModelSpec, wide: torch.dtype) -> torch.Tensor:
    """(D/2,) radians per position."""
    scaling = spec.rope_scaling or _NONE
    exponents = torch.arange(0, spec.head_dim, 2).to(wide) / spec.head_dim
    return _KINDS[scaling.kind](1.0 / spec.rope_theta**exponents, scaling)


Rope = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines, each (positions, 1, D/2), in fp32 at least."""


def rope(
    spec: ModelSpec, positions: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Rope:
    """Cosines and sines for positions. Taken on the processor, whatever the device."""
    wide = at_least_fp32(dtype)
    angles = torch.outer(torch.tensor(positions).to(wide), frequencies(spec, wide))
    return angles.cos()[:, None].to(device), angles.sin()[:, None].to(device)
