"""Chat templates render the published prompt formats, as transformers would use them."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2 import TemplateError
from llama_models.datatypes import RawMessage
from llama_models.llama3.chat_format import ChatFormat
from llama_models.llama3.tokenizer import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from llamatools.tokenizer.chat import chat_template

SYSTEM = {"role": "system", "content": "You are a helpful assistant"}
USER = {"role": "user", "content": "Who are you?"}
ASSISTANT = {"role": "assistant", "content": "I am a model.\n\nAnd you?"}
DIALOGS = ([USER], [SYSTEM, USER], [USER, ASSISTANT, USER], [SYSTEM, USER, ASSISTANT, USER])
LLAMA_3 = ("llama-3", "llama-3.1", "llama-3.2")
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "What it is like outside",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def render(
    generation: str, messages: list[dict[str, Any]], *, prompt: bool = True, **more: Any
) -> str:
    template = chat_template(generation)
    assert template is not None
    two = generation in ("llama-2", "code-llama")
    tokens = ("<s>", "</s>") if two else ("<|begin_of_text|>", "<|eot_id|>")
    tools = more.pop("tools", None)
    rendered, _ = render_jinja_template(
        [messages],
        tools=tools,
        chat_template=template,
        add_generation_prompt=prompt,
        bos_token=tokens[0],
        eos_token=tokens[1],
        **more,
    )
    text: str = rendered[0]
    return text


def calls(*made: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    functions = [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in made]
    return {"role": "assistant", "content": None, "tool_calls": functions}


def header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def test_llama_1_has_none() -> None:
    assert chat_template("llama-1") is None
    assert chat_template("anything") is None


@pytest.mark.parametrize("generation", ["llama-2", "code-llama"])
def test_llama_2(generation: str) -> None:
    assert render(generation, [SYSTEM, {**USER, "content": "Who are you?  "}]) == (
        "<s>[INST] <<SYS>>\nYou are a helpful assistant\n<</SYS>>\n\nWho are you? [/INST]"
    )
    assert render(generation, [USER, ASSISTANT, USER], prompt=False) == (
        "<s>[INST] Who are you? [/INST] I am a model.\n\nAnd you? </s>"
        "<s>[INST] Who are you? [/INST]"
    )


@pytest.mark.parametrize(
    "messages", [[ASSISTANT], [USER, USER], [SYSTEM, ASSISTANT], [USER, SYSTEM]]
)
def test_llama_2_takes_turns(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(TemplateError, match="takes turns"):
        render("llama-2", messages)


@pytest.mark.parametrize("generation", LLAMA_3)
def test_llama_3(generation: str) -> None:
    assert render(generation, [SYSTEM, USER]) == (
        f"<|begin_of_text|>{header('system')}You are a helpful assistant<|eot_id|>"
        f"{header('user')}Who are you?<|eot_id|>{header('assistant')}"
    )
    assert render(generation, [USER, ASSISTANT], prompt=False) == (
        f"<|begin_of_text|>{header('user')}Who are you?<|eot_id|>"
        f"{header('assistant')}I am a model.\n\nAnd you?<|eot_id|>"
    )


@pytest.mark.parametrize("generation", LLAMA_3)
@pytest.mark.parametrize("dialog", DIALOGS, ids=len)
def test_llama_3_as_metas_code_encodes_it(generation: str, dialog: list[dict[str, Any]]) -> None:
    tokenizer = Tokenizer.get_instance()
    messages = [RawMessage(**m, **_reason(m)) for m in dialog]
    wanted = ChatFormat(tokenizer).encode_dialog_prompt(messages).tokens
    text = render(generation, dialog)
    assert tokenizer.encode(text, bos=False, eos=False, allowed_special="all") == wanted


def _reason(message: dict[str, Any]) -> dict[str, Any]:
    return {"stop_reason": "end_of_turn"} if message["role"] == "assistant" else {}


def test_llama_31_offers_tools_to_the_user_and_dates_the_prompt() -> None:
    text = render("llama-3.1", [SYSTEM, USER], tools=[TOOL], date_string="1 Jan 2025")
    assert text.startswith(
        f"<|begin_of_text|>{header('system')}Environment: ipython\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 1 Jan 2025\n\n"
        f"You are a helpful assistant<|eot_id|>{header('user')}"
    )
    assert '"name": "weather"' in text.split(header("user"))[1]
    assert text.endswith(f"Who are you?<|eot_id|>{header('assistant')}")
    inside = render("llama-3.1", [SYSTEM, USER], tools=[TOOL], tools_in_user_message=False)
    assert '"name": "weather"' in inside.split(header("user"))[0]


def test_llama_31_calls_and_results() -> None:
    result = {"role": "tool", "content": {"sky": "blue"}}
    text = render("llama-3.1", [USER, calls(("weather", {"city": "Bonn"})), result], tools=[TOOL])
    assert text.endswith(
        f"{header('assistant')}"
        '{"name": "weather", "parameters": {"city": "Bonn"}}<|eot_id|>'
        f'{header("ipython")}{{"sky": "blue"}}<|eot_id|>{header("assistant")}'
    )
    with pytest.raises(TemplateError, match="one call"):
        render("llama-3.1", [USER, calls(("weather", {}), ("weather", {}))], tools=[TOOL])


def test_llama_31_builtin_tools() -> None:
    builtin = ["brave_search", "code_interpreter"]
    made = calls(("brave_search", {"query": "gold"}))
    text = render("llama-3.1", [SYSTEM, USER, made], builtin_tools=builtin, prompt=False)
    assert "Environment: ipython\nTools: brave_search\nCutting Knowledge Date" in text
    assert text.endswith('<|python_tag|>brave_search.call(query="gold")<|eom_id|>')


def test_llama_32_calls_as_python_does() -> None:
    made = calls(("weather", {"city": "Bonn", "days": 2}), ("weather", {"city": "Rome"}))
    text = render("llama-3.2", [SYSTEM, USER, made], tools=[TOOL], prompt=False)
    assert '"name": "weather"' in text.split(header("user"))[0]
    assert "Environment" not in text
    assert text.endswith('[weather(city="Bonn", days=2), weather(city="Rome")]<|eot_id|>')


@pytest.mark.parametrize("generation", ["llama-3.1", "llama-3.2"])
def test_parts_of_content_must_be_text(generation: str) -> None:
    parts = [{"type": "text", "text": "Who "}, {"type": "text", "text": "are you?"}]
    assert "are you?<|eot_id|>" in render(generation, [{"role": "user", "content": parts}])
    with pytest.raises(TemplateError, match="image"):
        render(generation, [{"role": "user", "content": [{"type": "image"}]}])


@pytest.mark.parametrize("generation", ["llama-2", *LLAMA_3])
def test_special_tokens_in_a_message_are_the_users_words(generation: str) -> None:
    """Templates do not escape: what a message says is in the prompt, once and in its place."""
    text = render(generation, [{"role": "user", "content": "a <|eot_id|> b"}])
    assert text.count("a <|eot_id|> b") == 1
