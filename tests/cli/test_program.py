"""The program as a person runs it: real processes, a whole (tiny) model on disk."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.cli.pseudo import CTRL_D, ENTER, Terminal, cpu_seconds, import_seconds
from tests.patience import LIMIT_S
from tests.process import held
from tests.process.held import Hold, hold
from tests.process.test_process import alive
from tests.yardstick import ratio

__all__ = ["hold"]

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "rbee_worker"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_safetensors(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [n for n in os.environ if n.startswith("RBEE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RBEE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("RBEE_THREADS", "1")
    monkeypatch.setenv("RBEE_BACKEND", "reference")  # no kernels to compile for each test


def run(*args: str, stdin: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*PROGRAM, *args], cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == code, done.stderr
    return done


def as_json(*args: str, stdin: str = "") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*args, "--json", stdin=stdin).stdout)
    return found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cash-dir", "x"), "error: No such option '--cash-dir'. Did you mean '--cache-dir'? "),
        (("--sideways",), "error: No such option '--sideways'. Fix: "),
    ],
)  # fmt: skip
def test_a_wrong_option_is_one_sentence_and_a_fix(words: tuple[str, ...], said: str) -> None:
    assert run("models", *words, code=2).stderr.startswith(said)


def test_a_wrong_command_gets_the_one_that_is_meant() -> None:
    said = "error: No such command 'modles'. Did you mean 'models'? Fix: "
    assert run("modles", code=2).stderr.startswith(said)
    shells = "error: Missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish. Fix: "
    assert run("completion", code=2).stderr.startswith(shells)


def test_generate_is_the_same_streamed_and_as_json_and_from_gguf(
    model: Path, tmp_path: Path
) -> None:
    asked = ["--max-tokens", "12", "--temperature", "0", "--ignore-eos"]
    found = as_json("generate", "--model", str(model), "the cat", *asked)
    assert len(found["token_ids"]) == found["usage"]["output_tokens"] == 12
    assert found["stop"]["rule"] == "MAX_TOKENS"
    streamed = run("generate", "--model", str(model), "-", *asked, stdin="the cat")
    assert streamed.stdout.removesuffix("\n") == found["text"].removesuffix("\n")
    assert "12 tokens" in streamed.stderr
    packed = tiny.write_gguf(tmp_path / "tiny.gguf")
    other = as_json("generate", "--model", str(packed), "the cat", *asked, "--kv-dtype", "f32")
    assert other["token_ids"] == found["token_ids"]


def test_a_rendered_template_gets_no_second_opening_token(model: Path) -> None:
    asked = ["--model", str(model), "hi", "--max-tokens", "1", "--seed", "1"]
    plain = as_json("generate", *asked)
    assert plain["usage"]["prompt_tokens"] == len("hi") + 1  # the vocabulary opens every text
    found = as_json("generate", "--chat", *asked)
    rendered = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    one_each = rendered.replace("<|im_start|>", "\0").replace("<|im_end|>", "\0")
    assert found["usage"]["prompt_tokens"] == len(one_each.encode())
    assert found["sampling"]["seed"] == {"value": 1, "origin": "request"}


def test_echo_puts_the_prompt_first(model: Path) -> None:
    asked = ["--model", str(model), "--max-tokens", "3", "--seed", "1", "--ignore-eos"]
    alone = as_json("generate", *asked, "the cat")
    echoed = as_json("generate", *asked, "the cat", "--echo", "--logprobs", "0")
    assert echoed["text"] == "the cat" + alone["text"]
    prompt_ids = echoed["token_ids"][:-3]
    assert echoed["token_ids"] == prompt_ids + alone["token_ids"]
    assert len(prompt_ids) == alone["usage"]["prompt_tokens"]
    scores = echoed["prompt_logprobs"]
    assert scores[0] is None
    assert [s["id"] for s in scores[1:]] == prompt_ids[1:]
    assert [s["id"] for s in echoed["logprobs"]] == alone["token_ids"]


def test_every_wrong_parameter_is_named(model: Path) -> None:
    done = run(
        *("generate", "--model", str(model), "x"),
        *("--top-p", "2", "--top-k", "-7", "--logit-bias", "9999=1"),
        code=2,
    )
    assert done.stdout == ""
    assert [f for f in ("--top-p", "--top-k", "--logit-bias") if f not in done.stderr] == []
    assert done.stderr.count("\n") == 1


def test_a_prompt_longer_than_the_context_is_refused_with_both_sizes(model: Path) -> None:
    done = run("generate", "--model", str(model), "x" * 300, code=2)
    assert "301" in done.stderr  # with the opening token
    assert str(tiny.CONTEXT) in done.stderr


def children_of(pid: int) -> list[int]:
    out = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    ).stdout
    return [int(word) for word in out.split()]


@pytest.fixture
def talking(model: Path, hold: Hold) -> Iterator[subprocess.Popen[str]]:
    """A generate that has begun, and does not end by itself."""
    hold.set()
    endless = ["--max-tokens", "200", "--ignore-eos"]
    program = [sys.executable, "-m", held.PROGRAM, "main"]
    process = subprocess.Popen(
        [*program, "generate", "--model", str(model), "x" * 50, *endless],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.read(1)
    yield process
    process.kill()
    process.communicate()


def test_ctrl_c_ends_the_answer_and_the_engine(talking: subprocess.Popen[str]) -> None:
    engine = children_of(talking.pid)
    assert len(engine) >= 1
    os.killpg(talking.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, err = talking.communicate(timeout=LIMIT_S)
    assert talking.returncode == 130
    assert "stopped: cancelled" in err
    assert "Traceback" not in err
    for pid in engine:
        assert not alive(pid)


def test_the_engine_leaves_with_a_killed_program(talking: subprocess.Popen[str]) -> None:
    engine = children_of(talking.pid)
    talking.kill()
    talking.communicate()
    for pid in engine:
        held.wait_for_state(pid, ("Z",))


def test_a_closed_pipe_is_no_traceback(model: Path) -> None:
    command = " ".join([*PROGRAM, "generate", "--model", str(model), "x", "--ignore-eos"])
    done = subprocess.run(
        f"{command} | head -c 1", shell=True, cwd=ROOT, capture_output=True, timeout=LIMIT_S
    )
    assert len(done.stdout) == 1
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_inspect_tells_what_the_file_says(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "tiny.gguf")
    found = as_json("inspect", str(path))
    numbers = sum(t.size for t in tiny.tensors().values())
    assert (found["architecture"], found["kind"], found["layers"]) == ("llama", "gguf", tiny.LAYERS)
    assert found["parameters"] == numbers
    assert found["formats"] == {"F32": {"tensors": len(tiny.tensors()), "bytes": 4 * numbers}}
    assert found["memory"]["weights"] == 4 * numbers
    # keys and values, layers, heads, head_dim, bytes of f32
    per_token = 2 * tiny.LAYERS * tiny.KV_HEADS * (tiny.DIM // tiny.HEADS) * 4
    assert found["memory"]["kv_per_token"] == per_token
    assert found["memory"]["kv_context"] == per_token * tiny.CONTEXT
    ids = {token: n for n, token in enumerate(tiny.vocabulary())}
    assert {e["id"]: e["origins"] for e in found["eos"]} == {
        ids["<|endoftext|>"]: ["vocabulary"],
        ids["<|im_end|>"]: ["gguf:tokenizer.ggml.eos_token_id", "vocabulary"],
    }
    texts = {t["text"] for t in found["chat_template"]["special_tokens"]}
    assert texts == {"<|im_start|>", "<|im_end|>"}
    shown = run("inspect", str(path)).stdout
    assert [w for w in ("F32: 21 tensors", "<|im_end|>", "256 tokens") if w not in shown] == []


def test_a_dtype_halves_the_weights(model: Path) -> None:
    whole, half = (
        as_json("inspect", str(model), "--dtype", dtype)["held"] for dtype in ("f32", "bf16")
    )
    assert half["bf16"] * 2 + half["f32"] == whole["f32"]


def test_models_lists_what_is_cached(tmp_path: Path) -> None:
    assert "rbee-worker pull smollm2" in run("models").stderr
    folder = tmp_path / "cache" / "pypi" / "some-model" / "1.0"
    folder.mkdir(parents=True)
    tiny.write_gguf(folder / "tiny.gguf")
    found = json.loads(run("models", "--json").stdout)
    nbytes = (folder / "tiny.gguf").stat().st_size
    path = str(folder / "tiny.gguf")
    assert found == [{"ref": "pypi:some-model==1.0:tiny.gguf", "path": path, "bytes": nbytes}]
    line = run("models").stdout
    assert line.startswith("pypi:some-model==1.0:tiny.gguf ")
    assert str(folder / "tiny.gguf") in line


def test_rm_removes_what_models_lists_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "pypi" / "some-model" / "1.0"
    folder.mkdir(parents=True)
    own = tiny.write_gguf(folder / "tiny.gguf").rename(tmp_path / "own.gguf")
    (folder / "tiny.gguf").write_bytes(own.read_bytes())
    (folder / "other.gguf").write_bytes(own.read_bytes())
    ref = "pypi:some-model==1.0:tiny.gguf"
    assert "a file of your own" in run("rm", str(own), code=3).stderr
    assert "not among the models" in run("rm", ref, "smollm2", code=3).stderr
    assert (folder / "tiny.gguf").exists(), "all or none"
    assert run("rm", ref).stdout.startswith(f"{ref}  ")
    assert own.exists()
    assert [m["ref"] for m in json.loads(run("models", "--json").stdout)] == [
        "pypi:some-model==1.0:other.gguf"
    ]
    run("rm", "pypi:some-model==1.0:other.gguf")
    assert not folder.parent.exists()


def test_pull_of_a_path_checks_it_and_prints_its_checksum(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "tiny.gguf")
    expected = subprocess.run(["sha256sum", path], capture_output=True, text=True).stdout.split()[0]
    lines = run("pull", str(path)).stdout.splitlines()
    assert lines[0] == str(path)
    assert lines[1].startswith(f"sha256:{expected} ")


def test_chat_with_a_real_engine(model: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from rbee_worker.cli.main import main; "
        f"sys.argv = ['rbee-worker', 'chat', '--model', {str(model)!r}, '--ignore-eos']; main()"
    )
    with Terminal(code, tmp_path, PYTHONPATH=str(ROOT)) as talk:
        talk.wait_for("Ctrl-D leaves")
        talk.send("/set max_tokens 3" + ENTER)
        talk.wait_for("max_tokens = 3")
        talk.prompt()
        talk.send("hi" + ENTER)
        talk.wait_for("max_tokens of 3 reached (request)")
        talk.send("/set max_tokens" + ENTER)
        talk.wait_for("max_tokens has its default.")
        talk.prompt()
        talk.send("/set temperature 9" + ENTER)
        talk.wait_for("temperature: must be at most 2")
        talk.prompt()
        talk.send("/set temperature 0" + ENTER)
        talk.wait_for("temperature = 0")
        talk.prompt()
        talk.break_off("half a line")
        talk.send(CTRL_D)
        assert talk.leave() == 0


@pytest.mark.parametrize("program", ["rbee-worker", "llm-worker-rbee"])
def test_both_programs_are_installed_names(program: str) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert f'{program} = "rbee_worker.cli.main:' in text


def test_the_version_is_the_packages() -> None:
    import rbee_worker

    assert run("--version").stdout == f"rbee-worker {rbee_worker.__version__}\n"


@pytest.mark.parametrize(
    "args", [["--help"], ["generate", "--help"], ["models"], ["inspect", "MODEL"]]
)
def test_light_commands_import_no_torch(args: list[str], model: Path) -> None:
    spelled = [str(model) if a == "MODEL" else a for a in args]
    code = (
        "import sys; sys.argv[1:] = " + repr(spelled) + "\n"
        "from rbee_worker.cli.main import main\n"
        "try: main()\n"
        "finally: sys.stderr.write(f\"torch={'torch' in sys.modules}\")"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.endswith("torch=False")


def test_a_model_is_found_before_anything_heavy_is_imported() -> None:
    """The engine waits for the path; what else the command needs it can import meanwhile."""
    code = (
        "import sys, rbee_worker.cli.main, rbee_worker.cli.app, rbee_worker.cli.generate, "
        "rbee_worker.cli.session, rbee_worker.cli.transcript, rbee_worker.checkpoint.refs as refs\n"
        "refs.resolve('.')\n"
        "heavy = {'numpy', 'tokenizers', 'jinja2', 'pydantic', 'rich', 'httpx', 'llvmlite', "
        "'huggingface_hub'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.slow
def test_help_costs_little_more_than_the_interpreter(tmp_path: Path) -> None:
    def ours() -> float:
        return cpu_seconds(tmp_path, "--help")

    def peer() -> float:
        return import_seconds(tmp_path, "asyncio, json, argparse, ssl")

    assert ratio(ours, peer, enough=4) < 4
