"""What a golden file holds, as `golden inspect --json` prints it; schemas/golden-inspect.json."""

from __future__ import annotations

from llamatools.golden.document import to_json
from llamatools.golden.model import Golden

SCHEMA = "urn:llamatools:golden-inspect:1"


def summary(golden: Golden) -> dict[str, object]:
    """The JSON of the file, and of every prompt what there is of it."""
    return {
        "$schema": SCHEMA,
        **{k: v for k, v in to_json(golden).items() if k not in ("$schema", "prompts")},
        "positions": golden.positions,
        "prompts": [
            {
                "name": p.prompt.name,
                "positions": len(p.prompt.tokens),
                "first": p.prompt.positions[0],
                "last": p.prompt.positions[-1],
                "full_logits": len(p.prompt.tokens) - p.first_full,
                "top_k": 0 if p.digest is None else p.digest.top_ids.shape[1],
            }
            for p in golden.prompts
        ],
    }
