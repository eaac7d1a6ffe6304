"""`generate` against a scripted engine: what is asked of it, what is shown, which exit code."""

import io
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbee_worker import params
from rbee_worker.cli import main as program
from rbee_worker.cli import session
from rbee_worker.cli.given import given_text
from rbee_worker.errors import FieldError, InvalidRequest, UnsupportedModel, UsageError
from tests.cli.fakes import FakeClient
from tests.pictures.making import drawn, saved

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the program with a fake engine: (exit code, stdout, stderr)."""

    def go(client: FakeClient, *args: str, stdin: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(session, "EngineClient", client)
        monkeypatch.setattr(sys, "argv", ["rbee-worker", *args])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        interrupt = signal.getsignal(signal.SIGINT)  # a program that leaves has no more use for it
        try:
            with pytest.raises(SystemExit) as left:
                program.main()
        finally:
            signal.signal(signal.SIGINT, interrupt)
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return go


def test_the_text_of_an_argument_or_of_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for every command that takes one."""

    def given(argument: str | None, data: bytes = b"", terminal: bool = False) -> str:
        stdin = io.TextIOWrapper(io.BytesIO(data), "utf-8")
        monkeypatch.setattr(stdin, "isatty", lambda: terminal)
        monkeypatch.setattr(sys, "stdin", stdin)
        return given_text(argument, "text", "speak x")

    assert given("a", b"b") == "a"
    assert given("-", b"b") == given(None, b"b") == "b"
    for argument, data, terminal, says in (
        (None, b"b", True, "no text"),
        (None, b"", False, "the text is empty"),
        ("", b"b", False, "the text is empty"),
        ("-", b"\xff", False, "stdin is not UTF-8 text"),
    ):
        with pytest.raises(UsageError, match=says):
            given(argument, data, terminal)


def test_the_answer_goes_to_stdout_and_the_rest_to_stderr(run: Run) -> None:
    client = FakeClient()
    code, out, err = run(client, "generate", "Where?", "--max-tokens", "5")
    assert (code, out) == (0, "Paris.\n")
    assert err == (
        "4 tokens at 3.0 tok/s · prompt 9 tokens (4 cached) in 0.25 s · "
        "stopped: end token </s> (from config.json)\n"
    )
    [request] = client.requests
    assert (request.prompt, request.messages, request.surface) == ("Where?", None, "generate")
    assert request.params == {"max_tokens": 5}
    assert client.closed == 1


def test_quiet_says_nothing_but_the_answer(run: Run) -> None:
    assert run(FakeClient(), "generate", "x", "-q") == (0, "Paris.\n", "")


def test_chat_sends_messages(run: Run) -> None:
    client = FakeClient()
    run(client, "generate", "--chat", "--system", "be brief", "Hi")
    assert client.requests[0].prompt is None
    assert client.requests[0].messages == (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "Hi"},
    )


def test_generate_sends_its_pictures(run: Run, tmp_path: Path) -> None:
    file, path = saved(drawn(9, 6)), tmp_path / "a.png"
    path.write_bytes(file)
    client = FakeClient()
    code, _, err = run(client, "generate", "--chat", "What?", "--image", str(path), "-q")
    assert (code, err) == (0, "")
    (request,) = client.requests
    assert request.messages == (
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
    )
    assert [one.data for one in request.pictures] == [file]
    code, _, err = run(client, "generate", "--chat", "What?", "--image", str(tmp_path / "b.png"))
    assert code == 2
    assert "b.png: No such file or directory" in err


@pytest.mark.parametrize("args", [("-",), ()])
def test_the_prompt_comes_from_stdin(run: Run, args: tuple[str, ...]) -> None:
    client = FakeClient()
    run(client, "generate", *args, stdin="from a pipe\n")
    assert client.requests[0].prompt == "from a pipe\n"


def test_json_is_one_object_with_everything(run: Run) -> None:
    code, out, _ = run(FakeClient(), "generate", "x", "--json", "--temperature", "0.5")
    found = json.loads(out)
    assert code == 0
    assert out.count("\n") == 1
    assert found["text"] == "Paris."
    assert found["token_ids"] == [0, 1, 2, 2]
    assert found["usage"] == {
        "prompt_tokens": 9,
        "cached_tokens": 4,
        "output_tokens": 4,
        "preemptions": 0,
        "drafted_tokens": 0,
        "accepted_tokens": 0,
        "reasoning_tokens": 0,
    }
    assert found["stop"]["rule"] == "EOS"
    assert found["stop"]["origin"] == "config.json"
    assert found["sampling"]["temperature"] == {"value": 0.5, "origin": "request"}
    assert found["sampling"]["top_p"] == {"value": 1.0, "origin": "default"}
    assert found["timings"]["prefill_ms"] == 250.0
    assert found["timings"]["decode_tok_s"] == 3.0


VALUES: dict[str, tuple[list[str], Any]] = {
    "max_tokens": (["7"], 7),
    "temperature": (["0.5"], 0.5),
    "top_p": (["0.9"], 0.9),
    "top_k": (["40"], 40),
    "min_p": (["0.1"], 0.1),
    "repetition_penalty": (["1.2"], 1.2),
    "repeat_penalty": (["1.2"], 1.2),
    "repeat_last_n": (["-1"], -1),
    "presence_penalty": (["-0.5"], -0.5),
    "frequency_penalty": (["0.5"], 0.5),
    "logit_bias": (["5=-100", "6=2.5"], {"5": -100.0, "6": 2.5}),
    "seed": (["18446744073709551615"], 2**64 - 1),
    "stop": (["\n\n", "END"], ["\n\n", "END"]),
    "stop_token_ids": (["3", "4"], [3, 4]),
    "ignore_eos": ([], True),
    "min_tokens": (["2"], 2),
    "logprobs": (["3"], 3),
    "echo": ([], True),
    "skip_special_tokens": ([], True),
    "speculation": ([], True),
}


def test_every_sampling_parameter_has_an_option() -> None:
    flags = {flag for option in params.options() for flag in option.flags}
    assert flags >= {"--" + name.replace("_", "-") for name in VALUES}


@pytest.mark.parametrize("name", VALUES)
def test_a_sampling_option_reaches_the_request(run: Run, name: str) -> None:
    client, flag = FakeClient(), "--" + name.replace("_", "-")
    texts, value = VALUES[name]
    args = [part for text in texts for part in (flag, text)] or [flag]
    code, _, err = run(client, "generate", "x", "--json", *args)
    assert code == 0, err
    assert client.requests[0].params == {name: value}


def test_a_parameter_given_by_two_names_stays_two(run: Run) -> None:
    client = FakeClient()
    run(client, "generate", "x", "--repeat-penalty", "1.1", "--repetition-penalty", "1.2")
    assert client.requests[0].params == {"repeat_penalty": 1.1, "repetition_penalty": 1.2}


def test_settings_reach_the_engine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBEE_CTX", "128")
    client = FakeClient()
    run(client, "generate", "x", "--no-kv-cache", "--threads", "3")
    assert (client.settings[0].ctx, client.settings[0].kv_cache) == (128, False)
    assert client.settings[0].threads == 3


def test_every_refused_field_is_named_as_an_option(run: Run) -> None:
    refusal = InvalidRequest(
        [
            FieldError("top_p", "(0, 1]", "must be greater than 0"),
            FieldError("prompt", "context", "600 tokens, the context has 512"),
        ]
    )
    code, out, err = run(FakeClient(refuses=refusal), "generate", "x", "--top-p", "0")
    assert (code, out) == (2, "")
    assert err == (
        "error: --top-p: must be greater than 0; prompt: 600 tokens, the context has 512. "
        "Fix: change the fields that are named\n"
    )


def test_a_model_that_cannot_load_exits_3_in_one_line(run: Run) -> None:
    client = FakeClient(fails=UnsupportedModel("rwkv7 is unknown.", fix="use llama."))
    code, out, err = run(client, "generate", "x")
    assert (code, out, err) == (3, "", "error: rwkv7 is unknown. Fix: use llama.\n")
    assert client.closed == 1


def test_debug_shows_the_traceback_too(run: Run) -> None:
    client = FakeClient(fails=UnsupportedModel("rwkv7 is unknown."))
    _, _, err = run(client, "generate", "x", "--debug")
    assert "Traceback" in err
    said = "rwkv7 is unknown. Fix: use another model, or another version of this one"
    assert err.splitlines()[-1] == f"error: {said}"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["generate", "--system", "s", "x"], "add --chat"),
        (["generate", "x", "--temperature", "hot"], "temperature"),
        (["generate", "x", "--no-such-option"], "--no-such-option"),
        (["generate", "x", "--dtype", "f64"], "--dtype f64"),
        (["generate", "x", "--logprobs", "3"], "--json"),
        (["generate", ""], "empty"),
        (["no-such-command"], "no-such-command"),
        (["chat"], "terminal"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(run: Run, args: list[str], says: str) -> None:
    client = FakeClient()
    code, out, err = run(client, *args, stdin="")
    assert (code, out) == (2, "")
    assert says in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert client.requests == []


def test_ctrl_c_while_the_model_loads(run: Run) -> None:
    client = FakeClient(ctrl_c="loading")
    assert run(client, "generate", "x") == (130, "", "")
    assert client.closed == 1


def test_ctrl_c_ends_the_answer_and_exits_130(run: Run) -> None:
    client = FakeClient(("a", "b"), endless=True, ctrl_c="answer")
    code, out, err = run(client, "generate", "x")
    assert code == 130
    assert client.cancelled == [client.requests[0].id]
    assert out.startswith("ab")
    assert err.rstrip().endswith("stopped: cancelled")
    assert client.closed == 1
