"""Chat templates of instruct models, by generation: published prompt formats, in words of our own.

They come with the package, so that no conversion needs the network. Plain conversations render as
Meta's own code encodes them: no date is put into a prompt unless tools are offered or the caller
gives one. Unlike that code, and like the templates in use, they trim what a message says.
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
    """The Jinja template of a generation's instruct models; None where there are none.

    llama-2, code-llama: `[INST]` and `<<SYS>>`, as in Meta's `llama/generation.py`; Code Llama
    Instruct 70B has another format, which is not here.
    llama-3: headers and `<|eot_id|>`, as `llama_models` encodes a dialog.
    llama-3.1: `llama3_1/prompt_format.md` of `llama_models`, with built-in tools and calls in JSON.
    llama-3.2: `llama3_2/text_prompt_format.md`, whose calls are lists as in Python.
    """
    name = _TEMPLATES.get(generation)
    if name is None:
        return None
    text = (files("llamatools.tokenizer") / "templates" / f"{name}.jinja").read_text("utf-8")
    if text.startswith("{#"):  # what is said about the file itself
        text = text.partition("#}")[2]
    return text.strip()
