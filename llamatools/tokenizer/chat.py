"""Chat templates of instruct models, by generation: published prompt formats, in words of our own.

They come with the package, so that no conversion needs the network. Plain conversations render as
Meta's own code encodes them: no date is put into a prompt unless tools are offered or the caller
gives one.
"""

from __future__ import annotations

from importlib.resources import files

_TEMPLATES = {
    "llama-2": "llama-2",
    "code-llama": "llama-2",
    "llama-3": "llama-3",
    "llama-3.1": "llama-3.1",  # and 3.3, which has the architecture of 3.1
    "llama-3.2": "llama-3.2",
}


def chat_template(generation: str) -> str | None:
    """The Jinja template of a generation's instruct models; None where there are none."""
    name = _TEMPLATES.get(generation)
    if name is None:
        return None
    text = (files("llamatools.tokenizer") / "templates" / f"{name}.jinja").read_text("utf-8")
    return text.removesuffix("\n")
