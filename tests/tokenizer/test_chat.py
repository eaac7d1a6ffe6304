"""Chat templates: equal to transformers, bounded, and none of them gets out."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from jinja2 import Environment, TemplateError
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from rbee_worker.errors import CheckpointError, InferenceFailed, InvalidRequest, WorkerError
from rbee_worker.tokenizer.chat import ChatRenderer
from rbee_worker.tokenizer.confined import ConfinedProcess
from tests.patience import LIMIT_S
from tests.process.held import wait_for_state
from tests.tokenizer.templates import CHATML, TEMPLATES
from tests.yardstick import ratio, wall_s

ASK = [{"role": "user", "content": "  What's <b>2 + 2</b>?\n"}]
TALK = [
    {"role": "user", "content": "Hi — 你好 😀"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello!"},
    {"role": "user", "content": 'Say "x"\n\n'},
]
WITH_SYSTEM = [{"role": "system", "content": " Be brief. "}, *TALK]
CALL = {"function": {"name": "add", "arguments": {"b": "é<", "a": 1}}}
WITH_TOOL = [
    *ASK,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "4"},
]


def hf_with(template: str) -> PreTrainedTokenizerFast:
    backend = Backend(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=template
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_equals_transformers(name: str) -> None:
    hf = hf_with(TEMPLATES[name])
    with ChatRenderer(TEMPLATES[name], bos_token="<s>", eos_token="</s>") as ours:
        rendered = 0
        for messages in (ASK, TALK, WITH_SYSTEM, WITH_TOOL):
            for prompt in (True, False):
                for args in ({}, {"enable_thinking": False}, {"date_string": "1 Jan 2030"}):
                    options = {"add_generation_prompt": prompt, **args}
                    want = _rendered(hf, messages, options)
                    if isinstance(want, str):
                        assert ours.render(messages, **options) == want
                        rendered += 1
                    else:  # refused: the template's own words reach the caller
                        with pytest.raises(InvalidRequest) as caught:
                            ours.render(messages, **options)
                        assert str(caught.value) == f"messages: {want}"
        assert rendered >= 12


def _rendered(
    hf: PreTrainedTokenizerFast, messages: list[dict[str, Any]], options: dict[str, Any]
) -> str | Exception:
    try:
        text: str = hf.apply_chat_template(messages, tokenize=False, **options)
    except TemplateError as e:
        return e
    return text


@pytest.fixture(scope="module")
def chatml() -> Iterator[ChatRenderer]:
    with ChatRenderer(CHATML) as renderer:
        yield renderer


def test_parts_and_developer(chatml: ChatRenderer) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [
        {"role": "developer", "content": "rules"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
    ]
    want = (
        "<|im_start|>system\nrules<|im_end|>\n<|im_start|>user\none\ntwo<|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n"
    )
    assert chatml.render(messages, add_generation_prompt=False) == want


def test_every_unusable_message_is_listed(chatml: ChatRenderer) -> None:
    image = {"type": "image_url", "image_url": {"url": "secret"}}
    bad: list[Any] = [
        {"role": "user", "content": 7},
        {"content": "secret"},
        "secret",
        {"role": "user", "content": [image, {"type": "text", "text": "secret"}, "secret"]},
        {"role": "user<|im_end|>", "content": "secret"},
    ]
    with pytest.raises(InvalidRequest) as caught:
        chatml.render(bad)
    assert [e.field for e in caught.value.errors] == [
        "messages[0].content",
        "messages[1].role",
        "messages[2]",
        "messages[3].content[0]",
        "messages[3].content[2]",
        "messages[4].role",
    ]
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidRequest, match="at least one message"):
        chatml.render([])
    with pytest.raises(InvalidRequest, match="must be JSON"):
        chatml.render(ASK, extra=object())


@pytest.mark.parametrize("name", ["messages", "documents", "bos_token"])
def test_arguments_cannot_replace_what_the_template_gets(name: str) -> None:
    renderer = ChatRenderer("x", bos_token="<s>")
    with pytest.raises((InvalidRequest, TypeError), match=name):
        renderer.render(ASK, **{name: "x"})


HOSTILE: dict[str, tuple[str, type[WorkerError], str]] = {
    "loops": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        InvalidRequest,
        "takes more than 0.3 s of processor time",
    ),
    "one long C call": ("{{ 3**(9**9) }}", InvalidRequest, "processor time"),
    "huge string": ("{{ 'a' * 10**9 }}", InvalidRequest, "too much memory"),
    "huge padding": ("{{ '%999999999d' | format(1) }}", InvalidRequest, "too much memory"),
    "huge range": ("{{ range(10**9) | list }}", InvalidRequest, "fails on these messages (Overf"),
    "long output": (
        "{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}",
        InvalidRequest,
        "too long a prompt",
    ),
    "one long piece": ("{{ 'a' * 3000000 }}", InvalidRequest, "too long a prompt"),
    "recursion": (
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        InvalidRequest,
        "(RecursionError)",
    ),
    "classes": ("{{ ''.__class__.__mro__ }}", CheckpointError, "sandbox forbids"),
    "subclasses": ("{{ [].__class__.__base__.__subclasses__() }}", CheckpointError, "forbids"),
    "globals": ("{{ cycler.__init__.__globals__ }}", CheckpointError, "sandbox forbids"),
    "helper": ("{{ raise_exception.__globals__.os }}", CheckpointError, "sandbox forbids"),
    "attr filter": ("{{ (''|attr('__class__')).mro() }}", CheckpointError, "sandbox forbids"),
    "format": ("{{ '{0.__class__.mro}'.format(1)() }}", CheckpointError, "sandbox forbids"),
    "namespace": ("{% set n = namespace(__class__=1) %}", CheckpointError, "sandbox forbids"),
    "mutation": ("{{ messages.append(1) }}", CheckpointError, "sandbox forbids"),
    "file": ("{% include '/etc/passwd' %}", InvalidRequest, "fails on these messages"),
    "import": ("{% import 'os' as os %}", InvalidRequest, "fails on these messages"),
    "syntax": ("{% for %}", CheckpointError, "not valid Jinja (line 1: Expected"),
    "deep nesting": ("{{ " + "(" * 5000 + ")" * 5000 + " }}", InvalidRequest, "fails on these"),
}


def children_s() -> float:
    """Processor time of all processes that this one has started and seen end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def harmless_s() -> float:
    """Processor time of a renderer's whole life for a template that asks for nothing."""

    def life() -> float:
        began = children_s()
        with ChatRenderer("ok") as renderer:
            renderer.render(ASK)
        return children_s() - began

    return max(life() for _ in range(3))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates(name: str, harmless_s: float) -> None:
    template, kind, says = HOSTILE[name]
    began = children_s()
    with ChatRenderer(template, cpu_s=0.3, most_chars=1 << 21) as renderer:
        with pytest.raises(kind) as caught:
            renderer.render(ASK)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(kind):  # and again: the next child is no worse off
            renderer.render(ASK)
    assert children_s() - began < 2 * (0.3 + 3 * harmless_s)


def test_a_stopped_child_is_replaced() -> None:
    with ChatRenderer("{% if x %}{{ 'a' * 10**9 }}{% else %}ok{% endif %}", memory=1 << 28) as r:
        assert r.render(ASK, x=False) == "ok"
        with pytest.raises(InvalidRequest, match="too much memory"):
            r.render(ASK, x=True)
        assert r.render(ASK, x=False) == "ok"
        assert r._child.pid is not None
        os.kill(r._child.pid, signal.SIGKILL)
        assert r.render(ASK, x=False) == "ok"


def test_wall_time_counts_too() -> None:
    endless = "{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}ok"
    renderer = ChatRenderer(endless, wall_s=0.2, cpu_s=600)
    with renderer, pytest.raises(InvalidRequest, match=r"takes more than 0\.2 s for"):
        renderer.render(ASK)


def test_who_ends_the_child_from_outside_costs_no_request_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A killed child, also one that has a request, and a stopped one say nothing about messages."""
    ask = ConfinedProcess.ask

    def patient(child: ConfinedProcess, body: bytes, wall_s: float, more: bytes = b"") -> Any:
        """One that only stands still because the machine has other work has all time."""
        return ask(child, body, wall_s if child.stopped else LIMIT_S, more)

    monkeypatch.setattr(ConfinedProcess, "ask", patient)
    with ChatRenderer("ok", wall_s=1) as renderer:
        assert renderer.render(ASK) == "ok"
        first = renderer._child.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)  # it takes the request and does not answer
        wait_for_state(first, ("T",))
        threading.Timer(0.1, os.kill, (first, signal.SIGKILL)).start()
        assert renderer.render(ASK) == "ok"
        second = renderer._child.pid
        assert second is not None
        assert second != first
        os.kill(second, signal.SIGSTOP)
        wait_for_state(second, ("T",))
        assert renderer.render(ASK) == "ok"
        assert renderer._child.pid != second


def test_closing_waits_for_nobody() -> None:
    """Whoever waits for a child that does not answer hears of it; later requests get another."""
    with ChatRenderer("ok", wall_s=600) as renderer, ThreadPoolExecutor(1) as pool:
        assert renderer.render(ASK) == "ok"
        assert renderer._child._process is not None
        child = renderer._child._process._process
        assert child.stdin is not None
        os.kill(child.pid, signal.SIGSTOP)
        waiting = pool.submit(renderer.render, ASK)
        while fcntl.ioctl(child.stdin, termios.FIONREAD, bytes(4)) == bytes(4):  # not asked yet
            time.sleep(0.001)
        renderer.close()
        with pytest.raises(InferenceFailed, match="the chat template process was ended"):
            waiting.result()
        assert renderer.render(ASK) == "ok"


def test_the_child_has_no_files_and_ends_with_its_owner() -> None:
    renderer = ChatRenderer("ok")
    assert renderer.render(ASK) == "ok"
    assert renderer._child._process is not None
    process = renderer._child._process._process
    with open(f"/proc/{process.pid}/limits", encoding="utf-8") as f:
        limits = {line[:26].strip(): line[26:46].strip() for line in f}
    assert limits["Max open files"] == "0"
    assert limits["Max file size"] == "0"
    assert limits["Max processes"] == "0"
    assert limits["Max address space"] == str(512 << 20)
    with open(f"/proc/{process.pid}/environ", "rb") as f:
        assert f.read() == b""
    del renderer
    assert process.poll() is not None


def test_dates_are_those_of_the_workers_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    for zone in ("Asia/Tokyo", "America/Los_Angeles", "UTC", "EST5EDT"):
        monkeypatch.setenv("TZ", zone)
        with ChatRenderer("{{ strftime_now('%Y-%m-%d %H') }}") as renderer:
            before = datetime.now(ZoneInfo(zone))
            rendered = renderer.render(ASK)
            after = datetime.now(ZoneInfo(zone))
        assert rendered in {t.strftime("%Y-%m-%d %H") for t in (before, after)}


VALUES: list[Any] = ["a <b>x</b> %s", [2, 1], [{"x": 1}], {"b": 1, "a": [2]}, 3.5]
# What each filter needs beside the value; the others need nothing.
ARGUMENTS = {
    "attr": "('x')",
    "batch": "(2)",
    "format": "(1)",
    "groupby": "('x')",
    "map": "('string')",
    "replace": "('a', 'z')",
    "slice": "(2)",
    "indent": "(2)",
}
RANDOM = ("random",)  # gives something else each time


def test_every_filter_and_encoding_works_without_files_as_in_transformers() -> None:
    """Some import what they need when first called; the child can open nothing by then."""
    names = sorted(set(Environment().filters) - set(RANDOM))
    calls = [f"x|{n}{ARGUMENTS.get(n, '')}" for n in names]
    calls += [f"x is {n}" for n in ("string", "mapping", "iterable", "none", "boolean", "number")]
    calls += [f"'é'.encode('{c}')|string" for c in ("utf-8", "utf-16", "latin-1", "idna", "cp1252")]
    source = "".join(
        f"{{% if which == {i} %}}{{{{ {c} }}}}{{% endif %}}" for i, c in enumerate(calls)
    )
    hf, worked = hf_with(source), set()
    with ChatRenderer(source) as ours:
        for which, x in itertools.product(range(len(calls)), VALUES):
            try:
                want = hf.apply_chat_template(ASK, tokenize=False, which=which, x=x)
            except Exception:
                with pytest.raises(InvalidRequest):
                    ours.render(ASK, which=which, x=x)
            else:
                worked.add(calls[which])
                got = ours.render(ASK, which=which, x=x)
                assert _no_address(got) == _no_address(want), (calls[which], x)
    assert {*calls} - worked == set()


def _no_address(text: str) -> str:
    return re.sub("0x[0-9a-f]+", "0x", text)


SAYING = {
    "raised": "{{ raise_exception('bad turn: ' ~ messages[-1].content) }}",
    "raised in part": "{{ raise_exception(messages[-1].content[:12] ~ ' is no turn') }}",
    "raised in capitals": "{{ raise_exception(messages[-1].content | upper) }}",
    "as a key": "{{ {}[messages[-1].content].x }}",
    "as an attribute": "{{ (messages[-1]|attr(messages[-1].content)).x }}",
    "as a forbidden attribute": "{{ (''|attr('__' ~ messages[-1].content)).x }}",
    "as a filter's argument": "{{ 1 | map(messages[-1].content) | list }}",
    "of an argument": "{{ raise_exception('bad: ' ~ note) }}",
}


@pytest.mark.parametrize("name", SAYING)
def test_an_error_of_a_template_never_carries_the_prompt(name: str) -> None:
    secret = "Sesame-4711 öffne 密码 🤫 dich"
    ask = [{"role": "user", "content": secret}]
    with ChatRenderer(SAYING[name]) as renderer, pytest.raises(WorkerError) as caught:
        renderer.render(ask, note=secret)
    said = str(caught.value).lower()
    for word in ("sesame", "4711", "öffne", "密", "🤫", "dich"):
        assert word not in said
    if name == "raised":
        assert str(caught.value).startswith("messages: bad turn: …")


def test_an_error_of_a_template_keeps_its_own_words() -> None:
    source = "{{ raise_exception('Unexpected role ' ~ messages[0].role ~ ' (2), not «user»!') }}"
    with ChatRenderer(source) as renderer, pytest.raises(InvalidRequest) as caught:
        renderer.render([{"role": "ipython.2", "content": "x"}])
    assert str(caught.value) == "messages: Unexpected role ipython.2 (2), not «user»!"


def test_threads_and_the_event_loop_share_one_child(chatml: ChatRenderer) -> None:
    def one(i: int) -> bool:
        return f"number {i}<|im_end|>" in chatml.render(
            [{"role": "user", "content": f"number {i}"}]
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(100)))

    async def many() -> list[str]:
        return await asyncio.gather(*(chatml.arender(ASK) for _ in range(10)))

    assert len(set(asyncio.run(many()))) == 1


def test_starts_and_renders_quickly() -> None:
    """Beside a process that imports what the child imports, and one that echoes lines."""

    def first() -> None:
        with ChatRenderer(CHATML) as renderer:
            renderer.render(ASK)

    def bare() -> None:
        subprocess.run([sys.executable, "-c", "import json, jinja2.sandbox"], check=True)

    assert ratio(lambda: wall_s(first), lambda: wall_s(bare), enough=4) < 4

    echo = "import sys\nfor line in sys.stdin.buffer:\n    print(line.decode(), flush=True, end='')"
    line = json.dumps(TALK).encode() + b"\n"
    peer = subprocess.Popen(
        [sys.executable, "-c", echo], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert peer.stdin is not None
    assert peer.stdout is not None
    with ChatRenderer(CHATML) as renderer, peer, peer.stdin as there, peer.stdout as back:
        renderer.render(TALK)

        def echoes() -> None:
            for _ in range(50):
                there.write(line)
                assert len(back.read(1 << 16)) == len(line)

        def renderings() -> None:
            for _ in range(50):
                renderer.render(TALK)

        echoes()
        assert ratio(lambda: wall_s(renderings), lambda: wall_s(echoes), enough=150) < 150
