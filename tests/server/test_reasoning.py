"""Reasoning over HTTP: switches, effort, budget; models whose templates know no tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.answer import NO_FORMAT, Format
from rbee_worker.answer.reasoning_formats import THINKING
from rbee_worker.errors import UsageError
from rbee_worker.params import default_switch
from tests.server.talking import Talking
from tests.server.test_tools import ASK, CALL, WEATHER
from tests.tokenizer.channels import HARMONY
from tests.tokenizer.templates import CHATML
from tests.tokenizer.tool_templates import HERMES, OPENED, QWEN3

MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
THOUGHT = "One, two, three, four, five."

Start = Callable[..., Talking]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server with a template and answers; all end with the test."""
    running: list[Talking] = []

    def begin(template: Any, *answers: str, **options: Any) -> Talking:
        options.setdefault("tokens", MARKS)
        folder = tmp_path / str(len(running))
        running.append(Talking(folder, template, answers, **options).__enter__())
        return running[-1]

    yield begin
    for server in running:
        server.__exit__(None, None, None)


def chat(server: Talking, **body: Any) -> Any:
    body = {"messages": ASK, "seed": 0, **body}
    return server.http.post("/v1/chat/completions", json=body).json()


def message(server: Talking, **body: Any) -> Any:
    answer = chat(server, **body)
    assert "choices" in answer, answer
    return answer["choices"][0]["message"]


def faults(server: Talking, path: str = "/v1/chat/completions", **body: Any) -> dict[str, str]:
    response = server.http.post(path, json={"messages": ASK, **body})
    assert response.status_code == 400, response.text
    return {e["field"]: e["message"] for e in response.json()["errors"]}


def prompt(server: Talking, **body: Any) -> str:
    response = server.http.post("/apply-template", json={"messages": ASK, **body})
    assert response.status_code == 200, response.text
    return str(response.json()["prompt"])


@pytest.mark.parametrize("name", ["thinking_budget", "max_thinking_tokens"])
@pytest.mark.parametrize("burst", [1, 5])
def test_a_budget_ends_the_reasoning_after_exactly_so_many_tokens(
    start: Start, name: str, burst: int
) -> None:
    """The engine goes on from the tokens up to the budget and the mark, and nothing else."""
    server = start(OPENED, THOUGHT + "\n</think>\n\nNo.", burst=burst, resumed="\n\nYes.")
    for budget in (0, 1, 7):
        server.resumed.clear()
        answer = chat(server, **{name: budget})
        said = answer["choices"][0]["message"]
        assert said.get("reasoning_content", "") == THOUGHT[:budget]
        assert said["content"] == "Yes."
        (again,) = server.resumed
        text = server.text.tokenizer
        assert again.output_ids == (
            *text.encode(THOUGHT[:budget], add_special=False),
            *text.encode("</think>", add_special=False),
        )
        usage = answer["usage"]
        assert usage["completion_tokens_details"]["reasoning_tokens"] == budget + 1
        assert usage["completion_tokens"] == budget + 1 + len("\n\nYes.") + 1
    server.resumed.clear()
    assert message(server, **{name: 1000})["reasoning_content"] == THOUGHT
    assert server.resumed == []


def test_a_budget_in_a_stream_and_in_a_job(start: Start) -> None:
    server = start(QWEN3, f"<think>{THOUGHT}</think>No.", resumed="Yes.")
    body = {"messages": ASK, "seed": 0, "thinking_budget": 4}
    found = server.http.post("/v1/infer", json=body).json()
    assert (found["reasoning"], found["text"]) == (THOUGHT[:3], "Yes.")  # the mark is one of them
    assert found["reasoning_tokens"] == 5
    response = server.http.post("/v1/chat/completions", json={**body, "stream": True})
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines]
    assert "".join(d.get("reasoning_content") or "" for d in deltas) == THOUGHT[:3]
    assert "".join(d.get("content") or "" for d in deltas) == "Yes."
    job = server.http.post("/v1/jobs", json=body).json()
    stream = server.http.get(job["sse_url"]).text
    assert '"action":"reasoning_ended"' in stream


def test_a_budget_at_the_end_of_the_answer_changes_nothing(start: Start) -> None:
    server = start(OPENED, THOUGHT, resumed="never")
    answer = chat(server, thinking_budget=6, max_tokens=6)
    assert answer["choices"][0]["message"]["reasoning_content"] == THOUGHT[:6]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert message(server, thinking_budget=len(THOUGHT) + 1)["reasoning_content"] == THOUGHT
    assert server.resumed == []


def test_a_budget_of_harmony_begins_the_final_message(start: Start) -> None:
    marks = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")
    thought = "<|channel|>analysis<|message|>One, two.<|end|><|start|>assistant"
    answer = f"{thought}<|channel|>final<|message|>Yes."
    server = start(HARMONY, answer, specials=marks, tokens=(), resumed="At once.")
    said = message(server)
    assert (said["content"], said["reasoning_content"]) == ("Yes.", "One, two.")
    said = message(server, thinking_budget=3)
    assert (said["content"], said["reasoning_content"]) == (
        "At once.",
        "On",
    )  # the mark is one of three
    forced = server.text.tokenizer.decode(server.resumed[0].output_ids, skip_special=False)
    assert forced.endswith("<|end|><|start|>assistant<|channel|>final<|message|>")
    assert prompt(server, reasoning_effort="high") != prompt(server)
    assert "Reasoning: high" in prompt(server, reasoning_effort="high")


def test_what_a_template_does_not_read_is_refused_by_name(start: Start) -> None:
    plain = start(CHATML, "Yes.", tokens=())
    assert set(faults(plain, enable_thinking=True)) == {"enable_thinking"}
    assert set(faults(plain, reasoning_effort="low")) == {"reasoning_effort"}
    assert set(faults(plain, thinking_budget=5)) == {"thinking_budget"}
    assert set(faults(plain, reasoning_format="none")) == {"reasoning_format"}
    assert set(faults(plain, reasoning_effort="a lot")) == {"reasoning_effort"}
    assert message(plain, reasoning_effort="none") == {
        "role": "assistant",
        "content": "Yes.",
        "refusal": None,
    }
    opened = start(OPENED, "x</think>Yes.")
    assert set(faults(opened, reasoning_effort="none")) == {"reasoning_effort"}
    assert set(faults(opened, thinking_budget=5, logprobs=True)) == {"thinking_budget"}
    assert set(faults(opened, thinking_budget=-1)) == {"thinking_budget"}
    body = {"prompt": "x", "thinking_budget": 5, "tools": [WEATHER]}
    response = opened.http.post("/v1/infer", json=body)
    assert {e["field"] for e in response.json()["errors"]} == {"thinking_budget", "tools"}


def test_a_switch_is_handed_to_the_template(start: Start) -> None:
    server = start(QWEN3, "<think>\nHm.\n</think>\n\nYes.")
    off = prompt(server, enable_thinking=False)
    assert off == prompt(server) + "<think>\n\n</think>\n\n"
    assert off == prompt(server, reasoning_effort="none")
    assert off == prompt(server, template_args={"enable_thinking": False})
    assert prompt(server, reasoning_effort="high") == prompt(server, enable_thinking=True)
    warnings = chat(server, reasoning_effort="low")["choices"][0]["rbee"]["warnings"]
    assert any(w.startswith("reasoning_effort") for w in warnings)
    twice = {"enable_thinking": True, "template_args": {"enable_thinking": False}}
    assert set(faults(server, **twice)) == {"template_args.enable_thinking"}


def test_the_worker_has_a_default_for_the_switch(start: Start) -> None:
    said = "<think>\nHm.\n</think>\n\nYes."
    on, off = start(QWEN3, said), start(QWEN3, said, thinking="off")
    assert prompt(off) == prompt(on, enable_thinking=False)
    for asked in ({"enable_thinking": True}, {"reasoning_effort": "high"}):
        assert prompt(off, **asked) == prompt(on)
    assert prompt(off, template_args={"enable_thinking": True}) == prompt(on)


def test_a_default_that_the_model_cannot_have_is_refused() -> None:
    assert default_switch("off", CHATML, NO_FORMAT) is None
    always = Format(thinking=THINKING[-1])
    assert default_switch("on", CHATML, always) is None
    for setting, form in (("on", NO_FORMAT), ("off", always)):
        with pytest.raises(UsageError, match=f"--thinking {setting}: "):
            default_switch(setting, CHATML, form)


@pytest.mark.parametrize("name", ["tools", "messages", "documents", "add_generation_prompt"])
def test_fields_of_the_request_are_no_variables(start: Start, name: str) -> None:
    server = start(HERMES, "x")
    assert set(faults(server, template_args={name: []})) == {f"template_args.{name}"}


def test_a_continued_answer_goes_on_within_its_reasoning(start: Start) -> None:
    server = start(HERMES + "<think></think>", "three.</think>Yes.")
    for begun, reasoning in (("<think>One, two, ", "three."), ("One, two, ", "")):
        talk = [*ASK, {"role": "assistant", "content": begun}]
        said = message(server, messages=talk, continue_final_message=True)
        assert said.get("reasoning_content", "") == reasoning
        assert said["content"] == ("Yes." if reasoning else "three.</think>Yes.")
        many = chat(server, messages=talk, continue_final_message=True, n=2)
        assert [c["message"] for c in many["choices"]] == [said, said]


def test_tools_are_refused_where_the_template_takes_none(start: Start) -> None:
    server = start(CHATML, CALL)
    (told,) = faults(server, tools=[WEATHER]).values()
    assert "--tool-format prompt" in told
    assert "tool_format" not in server.http.get("/info").json()
    unknown = start(CHATML + "{{ tools }}", CALL, tokens=())
    (told,) = faults(unknown, tools=[WEATHER]).values()
    assert "--tool-format NAME" in told
    assert message(server, tools=[WEATHER], tool_choice="none")["content"] == CALL


def test_tools_in_words(start: Start) -> None:
    server = start(CHATML, CALL, tool_format="prompt")
    assert server.http.get("/info").json()["tool_format"] == "hermes"
    (call,) = message(server, tools=[WEATHER])["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    told = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
    talk = [*ASK, {"role": "assistant", "tool_calls": [call]}, told]
    text = prompt(server, messages=talk, tools=[WEATHER])
    assert text.count("<|im_start|>system") == 1
    assert json.dumps(WEATHER) in text
    assert '<tool_call>\n{"name": "get_weather"' in text
    assert "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>" in text


def test_a_format_that_is_named_is_used(start: Start) -> None:
    template = CHATML + "{{ tools }}"
    server = start(template, "[get_weather(city='Köln')]", tool_format="llama-pythonic")
    (call,) = message(server, tools=[WEATHER])["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Köln"}
    assert server.http.get("/info").json()["tool_format"] == "llama-pythonic"


def test_a_template_for_tools_is_used_for_tools_alone(start: Start) -> None:
    server = start({"default": CHATML, "tool_use": HERMES}, CALL)
    assert message(server, tools=[WEATHER])["tool_calls"]
    assert "Tools:" in prompt(server, tools=[WEATHER])
    assert "Tools:" not in prompt(server)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tools": [WEATHER], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {"type": "function", "function": {"name": "another"}},
            },
            "tool_choice.function.name",
        ),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
        ({"tools": [{"type": "function", "function": {"nam": "x"}}]}, "tools[0].function.nam"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": "x"}, "tools"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"functions": [{"name": "x"}]}, "functions"),
        ({"enable_thinking": "yes"}, "enable_thinking"),
    ],
)
def test_faults_of_tools_name_their_place(start: Start, body: dict[str, Any], field: str) -> None:
    server = start(HERMES, "x")
    for path in ("/v1/chat/completions", "/v1/jobs"):
        assert list(faults(server, path, **body)) == [field]


def test_a_schema_that_cannot_be_held_is_named_by_its_place_behind_reasoning(start: Start) -> None:
    """The grammar that a request is put together from is not shown to who has not written it."""
    server = start(OPENED, "Hm.</think>1")
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)b"}}}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}}
    for body, field in (
        ({"response_format": form}, "response_format.json_schema.schema"),
        ({"tools": [tool]}, "tools[0].function.parameters"),
    ):
        ((name, message),) = faults(server, **body).items()
        assert name == f"{field}#/properties/a/pattern"
        assert "look-around" in message
        assert "%json" not in message
