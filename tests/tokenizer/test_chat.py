"""Chat templates render the published prompt formats, as transformers would use them.

What is expected is written out here from Meta's documents; the tests marked "meta" run its code.
"""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest
from jinja2 import Environment, TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from llamatools.tokenizer.chat import chat_template

SYSTEM = {"role": "system", "content": "You are a helpful assistant"}
USER = {"role": "user", "content": "Who are you?"}
ASSISTANT = {"role": "assistant", "content": "I am a model.\n\nAnd you?"}
HARD = {"role": "user", "content": "{{ 1 }} {% raw %}\n\n\t'\"\\ <b>&amp; é 漢 🦙 [INST] </s>"}
DIALOGS = (
    [USER],
    [SYSTEM, USER],
    [USER, ASSISTANT, USER],
    [SYSTEM, USER, ASSISTANT, HARD, ASSISTANT, USER],
)
LLAMA_3 = ("llama-3", "llama-3.1", "llama-3.2")
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "What it is like outside",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def specials(generation: str) -> dict[str, str]:
    two = generation in ("llama-2", "code-llama")
    bos, eos = ("<s>", "</s>") if two else ("<|begin_of_text|>", "<|eot_id|>")
    return {"bos_token": bos, "eos_token": eos}


def render(
    generation: str, messages: list[dict[str, Any]], *, prompt: bool = True, **more: Any
) -> str:
    rendered, _ = render_jinja_template(
        [messages],
        chat_template=chat_template(generation),
        add_generation_prompt=prompt,
        **specials(generation),
        **more,
    )
    text: str = rendered[0]
    return text


def calls(*made: tuple[str, Any]) -> dict[str, Any]:
    functions = [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in made]
    return {"role": "assistant", "content": None, "tool_calls": functions}


def header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def test_llama_1_has_none() -> None:
    assert chat_template("llama-1") is None
    assert chat_template("anything") is None


@pytest.mark.parametrize("generation", ["llama-2", "code-llama", *LLAMA_3])
def test_a_template_is_one_text_without_the_note_about_its_file(generation: str) -> None:
    template = chat_template(generation)
    assert template is not None
    assert template == template.strip()
    assert template.startswith("{%-") and template.endswith("-%}")


@pytest.mark.parametrize("generation", ["llama-2", *LLAMA_3])
@pytest.mark.parametrize("trim", [False, True])
def test_blanks_between_tags_do_not_depend_on_the_environment(generation: str, trim: bool) -> None:
    template = chat_template(generation)
    assert template is not None
    plain = Environment(trim_blocks=trim, lstrip_blocks=trim).from_string(template)
    more = {"add_generation_prompt": True, **specials(generation)}
    assert plain.render(messages=DIALOGS[-1], **more) == render(generation, DIALOGS[-1])
    if generation in ("llama-3.1", "llama-3.2"):  # Jinja's own tojson marks its text as HTML
        called = [USER, calls(("weather", {"city": "Bonn"})), {"role": "tool", "content": [1]}]
        for given in ({}, {"builtin_tools": ["weather"]}):
            assert plain.render(messages=called, **given, **more) == render(
                generation, called, **given
            )
        assert "&#" not in plain.render(messages=called, tools=[TOOL], **more)


@pytest.mark.parametrize("generation", ["llama-2", "code-llama"])
def test_llama_2(generation: str) -> None:
    assert render(generation, [SYSTEM, {**USER, "content": "Who are you?  "}]) == (
        "<s>[INST] <<SYS>>\nYou are a helpful assistant\n<</SYS>>\n\nWho are you? [/INST]"
    )
    assert render(generation, [USER, ASSISTANT, USER], prompt=False) == (
        "<s>[INST] Who are you? [/INST] I am a model.\n\nAnd you? </s>"
        "<s>[INST] Who are you? [/INST]"
    )
    assert render(generation, [SYSTEM, USER, ASSISTANT, USER, ASSISTANT]) == (
        "<s>[INST] <<SYS>>\nYou are a helpful assistant\n<</SYS>>\n\nWho are you? [/INST]"
        " I am a model.\n\nAnd you? </s>"
        "<s>[INST] Who are you? [/INST] I am a model.\n\nAnd you? </s>"
    )


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [SYSTEM],
        [ASSISTANT],
        [USER, USER],
        [SYSTEM, ASSISTANT],
        [SYSTEM, SYSTEM, USER],
        [USER, SYSTEM],
        [USER, ASSISTANT, ASSISTANT],
        [USER, {"role": "tool", "content": "1"}],
    ],
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
def test_llama_3_says_several_turns_in_order(generation: str) -> None:
    assert render(generation, [SYSTEM, USER, ASSISTANT, HARD]) == (
        f"<|begin_of_text|>{header('system')}You are a helpful assistant<|eot_id|>"
        f"{header('user')}Who are you?<|eot_id|>"
        f"{header('assistant')}I am a model.\n\nAnd you?<|eot_id|>"
        f"{header('user')}{HARD['content']}<|eot_id|>{header('assistant')}"
    )


@pytest.mark.parametrize("generation", LLAMA_3)
@pytest.mark.parametrize("dialog", DIALOGS, ids=len)
def test_llama_3_as_metas_code_encodes_it(generation: str, dialog: list[dict[str, Any]]) -> None:
    text = render(generation, dialog)
    wanted = metas_tokens(dialog)
    assert ids(text) == wanted
    assert text == tokenizer().decode(wanted)
    assert ids(text.replace("You", "We").replace("Who", "What")) != wanted


@pytest.mark.parametrize("generation", ["llama-3.1", "llama-3.2"])
def test_results_of_tools_as_metas_code_encodes_them(generation: str) -> None:
    dialog = [USER, ASSISTANT, {"role": "tool", "content": "  25 C\n"}]
    assert ids(render(generation, dialog)) == metas_tokens(dialog)
    # The text is the same, too, where a result begins with the newline that ends the header; its
    # ids are not, as Meta's code encodes header and content apart.
    dialog = [USER, ASSISTANT, {"role": "tool", "content": "\n25 C"}]
    assert render(generation, dialog) == tokenizer().decode(metas_tokens(dialog))


def test_calls_as_metas_code_reads_and_writes_them() -> None:
    from llama_models.datatypes import StopReason, ToolCall, ToolPromptFormat
    from llama_models.llama3.chat_format import ChatFormat
    from llama_models.llama3.tool_utils import ToolUtils

    arguments = {"city": "Bonn", "days": 2, "sunny": True, "wind": None, "at": [1.5, "x"]}
    call = ToolCall(call_id="1", tool_name="weather", arguments=arguments)
    messages = [USER, calls(("weather", arguments))]
    listed = ToolUtils.encode_tool_call(call, ToolPromptFormat.python_list)
    assert render("llama-3.2", messages, prompt=False).endswith(f"{listed}<|eot_id|>")
    for generation in ("llama-3.1", "llama-3.2"):
        body = render(generation, messages, prompt=False).split(header("assistant"))[1]
        read = ChatFormat(tokenizer()).decode_assistant_message_from_content(
            body, StopReason.end_of_turn
        )
        assert [(c.tool_name, c.arguments) for c in read.tool_calls] == [("weather", arguments)]


def tokenizer() -> Any:
    from llama_models.llama3.tokenizer import Tokenizer

    return Tokenizer.get_instance()


def ids(text: str) -> list[int]:
    encoded: list[int] = tokenizer().encode(text, bos=False, eos=False, allowed_special="all")
    return encoded


def metas_tokens(dialog: list[dict[str, Any]]) -> list[int]:
    from llama_models.datatypes import RawMessage
    from llama_models.llama3.chat_format import ChatFormat

    messages = [RawMessage(**m) for m in dialog]
    tokens: list[int] = ChatFormat(tokenizer()).encode_dialog_prompt(messages).tokens
    return tokens


@pytest.mark.parametrize("generation", ["llama-3.1", "llama-3.2"])
def test_builtin_tools_as_published(generation: str) -> None:
    """The full interaction of llama3_1/prompt_format.md, with the head of its first example."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the 100th decimal of pi?"},
        calls(("wolfram_alpha", {"query": "100th decimal of pi"})),
        {"role": "tool", "content": '{"queryresult": 7}\n'},
        {"role": "assistant", "content": "The 100th decimal of pi is 7."},
    ]
    builtin = ["brave_search", "wolfram_alpha", "code_interpreter"]
    dated = {"builtin_tools": builtin, "date_string": "21 September 2024"}
    assert render(generation, messages, prompt=False, **dated) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "Environment: ipython\n"
        "Tools: brave_search, wolfram_alpha\n"
        "Cutting Knowledge Date: December 2023\n"
        "Today Date: 21 September 2024\n\n"
        "You are a helpful assistant.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "What is the 100th decimal of pi?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        '<|python_tag|>wolfram_alpha.call(query="100th decimal of pi")<|eom_id|>'
        "<|start_header_id|>ipython<|end_header_id|>\n\n"
        '{"queryresult": 7}\n<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n'
        "The 100th decimal of pi is 7.<|eot_id|>"
    )


@pytest.mark.parametrize("generation", ["llama-3.1", "llama-3.2"])
def test_the_code_interpreter_as_published(generation: str) -> None:
    """The example of llama3_2/text_prompt_format.md, whose system says nothing of its own."""
    question = "Write code to check if number is prime. Use it to verify if number 7 is prime"
    code = 'def is_prime(n):\n    return n != "\\n"\n\nprint(is_prime(7))  # Output: True'
    messages = [{"role": "user", "content": question}, calls(("code_interpreter", {"code": code}))]
    dated = {"builtin_tools": ["code_interpreter"], "date_string": "24 September 2024"}
    assert render(generation, messages, prompt=False, **dated) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "Environment: ipython\n\n"
        "Cutting Knowledge Date: December 2023\n"
        "Today Date: 24 September 2024<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        f"{question}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        f"<|python_tag|>{code}<|eom_id|>"
    )


@pytest.mark.parametrize("generation", ["llama-3.1", "llama-3.2"])
def test_a_date_stands_where_it_is_given(generation: str) -> None:
    assert "Date" not in render(generation, [SYSTEM, USER])
    assert render(generation, [USER], date_string="1 Jan 2025") == (
        f"<|begin_of_text|>{header('system')}Cutting Knowledge Date: December 2023\n"
        f"Today Date: 1 Jan 2025<|eot_id|>{header('user')}Who are you?<|eot_id|>"
        f"{header('assistant')}"
    )
    undated = render(generation, [SYSTEM, USER], builtin_tools=["brave_search"])
    assert "Today Date: 26 Jul 2024\n\nYou are" in undated


def test_llama_31_offers_tools_to_the_user_and_dates_the_prompt() -> None:
    head = (
        f"<|begin_of_text|>{header('system')}Environment: ipython\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 1 Jan 2025\n\n"
    )
    said = f"You are a helpful assistant<|eot_id|>{header('user')}"
    dated = {"tools": [TOOL, TOOL], "date_string": "1 Jan 2025"}
    text = render("llama-3.1", [SYSTEM, USER], **dated)
    inside = render("llama-3.1", [SYSTEM, USER], tools_in_user_message=False, **dated)
    assert text.startswith(head + said)
    assert inside.startswith(head) and f"\n\n{said}Who are you?<|eot_id|>" in inside
    offered = inside.removeprefix(head).partition(f"\n\n{said}")[0]
    assert text == f"{head}{said}{offered}\n\nWho are you?<|eot_id|>{header('assistant')}"
    form = '{"name": function name, "parameters": dictionary of argument name and its value}'
    assert form in offered
    tool = json.dumps(TOOL, indent=4)
    assert offered.endswith(f"\n\n{tool}\n\n{tool}")


def test_tools_are_offered_once_and_to_someone() -> None:
    text = render("llama-3.1", [USER, ASSISTANT, USER], tools=[TOOL])
    assert text.count('"name": "weather"') == 1
    for messages in ([SYSTEM], [ASSISTANT, USER], []):
        with pytest.raises(TemplateError, match="first message of the user"):
            render("llama-3.1", messages, tools=[TOOL])


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


def test_arguments_may_be_json_already() -> None:
    made = calls(("weather", '{"city": "Bonn"}'))
    as_json = render("llama-3.1", [USER, made], prompt=False)
    assert as_json.endswith('{"name": "weather", "parameters": {"city": "Bonn"}}<|eot_id|>')
    with pytest.raises(TemplateError, match="mapping"):  # a template cannot read JSON
        render("llama-3.2", [USER, made])
    for generation in ("llama-3.1", "llama-3.2"):
        with pytest.raises(TemplateError, match="mapping"):
            render(generation, [USER, made], builtin_tools=["weather"])


@pytest.mark.parametrize("generation", ["llama-3.1", "llama-3.2"])
def test_what_is_said_beside_a_call_is_kept(generation: str) -> None:
    made = {**calls(("weather", {})), "content": "Let me see."}
    assert f"{header('assistant')}Let me see." in render(generation, [USER, made], prompt=False)
    text = render(generation, [USER, made], prompt=False, builtin_tools=["weather"])
    assert text.endswith("Let me see.<|python_tag|>weather.call()<|eom_id|>")


def test_llama_32_calls_as_python_does() -> None:
    """The whole cycle of llama3_2/text_prompt_format.md, but for the words of the instruction."""
    made = calls(
        ("get_weather", {"city": "San Francisco", "metric": "celsius"}), ("get_weather", {})
    )
    result = {"role": "tool", "content": '"25 C"'}
    text = render("llama-3.2", [SYSTEM, USER, made, result], tools=[TOOL])
    head, _, rest = text.partition("<|eot_id|>")
    tools = json.dumps([TOOL], indent=4)
    assert head.startswith(f"<|begin_of_text|>{header('system')}")
    assert head.endswith(f"\n\n{tools}\n\nYou are a helpful assistant")
    assert "Environment" not in text and "Date" not in text
    assert rest == (
        f"{header('user')}Who are you?<|eot_id|>{header('assistant')}"
        '[get_weather(city="San Francisco", metric="celsius"), get_weather()]<|eot_id|>'
        f'{header("ipython")}"25 C"<|eot_id|>{header("assistant")}'
    )
    asked = render("llama-3.2", [USER], tools=[TOOL], tools_in_user_message=True)
    assert asked.startswith(f"<|begin_of_text|>{header('user')}")
    assert asked.endswith(f"{tools}\n\nWho are you?<|eot_id|>{header('assistant')}")
    with pytest.raises(TemplateError, match="alone"):
        render("llama-3.2", [USER, made], builtin_tools=["get_weather"])


def test_llama_32_writes_values_that_python_reads() -> None:
    arguments = {
        "text": 'it\'s "so" \\ \n\t é 🦙 true',
        "flags": [True, False, None, []],
        "nested": {"a b": {"true": -1.5e-7}, "none": {}},
        "count": 0,
    }
    text = render("llama-3.2", [USER, calls(("weather", arguments))], prompt=False)
    body = text.split(header("assistant"))[1].removesuffix("<|eot_id|>")
    (call,) = ast.parse(body, mode="eval").body.elts  # type: ignore[attr-defined]
    assert {k.arg: ast.literal_eval(k.value) for k in call.keywords} == arguments


@pytest.mark.parametrize("generation", ["llama-3.1", "llama-3.2"])
@pytest.mark.parametrize("role", ["tool", "ipython"])
@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("  25 C\n", "  25 C\n"),
        ('"25 C"', '"25 C"'),
        ({"sky": "<é>"}, '{"sky": "<é>"}'),
        ([], "[]"),
        ([{"type": "song"}, 1], '[{"type": "song"}, 1]'),
        ([{"type": "text", "text": "25 "}, {"type": "text", "text": "C"}], "25 C"),
        (25, "25"),
    ],
)
def test_results_of_tools(generation: str, role: str, content: object, wanted: str) -> None:
    text = render(generation, [USER, {"role": role, "content": content}], prompt=False)
    assert text.endswith(f"<|eot_id|>{header('ipython')}{wanted}<|eot_id|>")


@pytest.mark.parametrize("generation", ["llama-2", *LLAMA_3])
def test_parts_of_content_must_be_text(generation: str) -> None:
    parts = [{"type": "text", "text": " Who "}, {"type": "text", "text": "are you? "}]
    assert render(generation, [{"role": "user", "content": parts}]) == render(generation, [USER])
    with pytest.raises(TemplateError, match="image"):
        render(generation, [{"role": "user", "content": [*parts, {"type": "image"}]}])


@pytest.mark.parametrize("generation", ["llama-2", *LLAMA_3])
@pytest.mark.parametrize(
    "message", [{}, {"content": None}, {"content": {"a": 1}}, {"content": [{"type": "text"}]}]
)
def test_a_message_without_text_is_refused(generation: str, message: dict[str, Any]) -> None:
    with pytest.raises(TemplateError, match=r"content|not text"):
        render(generation, [{"role": "user", **message}])


@pytest.mark.parametrize("generation", ["llama-2", *LLAMA_3])
def test_messages_are_trimmed(generation: str) -> None:
    spaced = [{**m, "content": f"\n {m['content']}\t\n"} for m in (USER, ASSISTANT, USER)]
    assert render(generation, spaced) == render(generation, [USER, ASSISTANT, USER])


@pytest.mark.parametrize("generation", ["llama-2", *LLAMA_3])
def test_special_tokens_in_a_message_are_the_users_words(generation: str) -> None:
    """Templates do not escape: what a message says is in the prompt, once and in its place."""
    words = "a <|eot_id|> b </s> [/INST] {{ bos_token }} {% endfor %}"
    text = render(generation, [{"role": "user", "content": words}])
    assert text == render(generation, [USER]).replace("Who are you?", words)
