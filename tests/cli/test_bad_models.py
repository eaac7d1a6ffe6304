"""Models and settings that cannot work: one line with the fix, the right exit code, at once."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.cli.pseudo import cpu_seconds, import_seconds
from tests.patience import LIMIT_S
from tests.yardstick import ratio

ROOT = Path(__file__).parents[2]
Make = Callable[[Path], list[str]]  # a folder to write in -> arguments


def truncated_gguf(at: Path) -> list[str]:
    whole = tiny.write_gguf(at / "whole.gguf").read_bytes()
    (at / "cut.gguf").write_bytes(whole[: len(whole) - 1000])
    return [str(at / "cut.gguf")]


def header_only_gguf(at: Path) -> list[str]:
    whole = tiny.write_gguf(at / "whole.gguf").read_bytes()
    (at / "cut.gguf").write_bytes(whole[:100])
    return [str(at / "cut.gguf")]


def wrong_magic(at: Path) -> list[str]:
    (at / "not.gguf").write_bytes(b"PK\x03\x04" + bytes(500))
    return [str(at / "not.gguf")]


def empty_file(at: Path) -> list[str]:
    (at / "empty.gguf").touch()
    return [str(at / "empty.gguf")]


def gguf_without_a_tensor(at: Path) -> list[str]:
    return [str(tiny.write_gguf(at / "m.gguf", without=["blk.1.ffn_up.weight"]))]


def unknown_gguf_architecture(at: Path) -> list[str]:
    return [str(tiny.write_gguf(at / "m.gguf", arch="unheard"))]


def gguf_without_tokenizer(at: Path) -> list[str]:
    return [str(tiny.write_gguf(at / "m.gguf", tokenizer=False))]


def directory_without_a_tensor(at: Path) -> list[str]:
    name = "model.layers.1.mlp.up_proj.weight"
    return [str(tiny.write_safetensors(at / "m", without=[name]))]


def directory_without(file: str) -> Make:
    return lambda at: [str(tiny.write_safetensors(at / "m", without=[file]))]


def unknown_model_type(at: Path) -> list[str]:
    return [str(tiny.write_safetensors(at / "m", model_type="lama"))]


def config_and_weights_of_two_models(at: Path) -> list[str]:
    return [str(tiny.write_safetensors(at / "m", intermediate_size=64))]


def damaged_config(at: Path) -> list[str]:
    folder = tiny.write_safetensors(at / "m")
    (folder / "config.json").write_text('{"model_type": "llama"')
    return [str(folder)]


def truncated_safetensors(at: Path) -> list[str]:
    file = tiny.write_safetensors(at / "m") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return [str(file.parent)]


def end_token_outside_the_vocabulary(at: Path) -> list[str]:
    return [str(tiny.write_safetensors(at / "m", eos_token_id=9999))]


def no_such_path(at: Path) -> list[str]:
    return [str(at / "nothing.gguf")]


def unknown_alias(at: Path) -> list[str]:
    return ["smolm2"]


def empty_directory(at: Path) -> list[str]:
    return [str(at)]


def cache_on_a_file(at: Path) -> list[str]:
    (at / "file").touch()
    return ["smollm2", "--cache-dir", str(at / "file")]


def bad_dtype(at: Path) -> list[str]:
    return [str(tiny.write_gguf(at / "m.gguf")), "--dtype", "f64"]


def context_too_long(at: Path) -> list[str]:
    return [str(tiny.write_gguf(at / "m.gguf")), "--ctx", "100000"]


def odd_block_size(at: Path) -> list[str]:
    return [str(tiny.write_gguf(at / "m.gguf")), "--block-size", "24"]


CASES: list[tuple[Make, int, list[str]]] = [
    (truncated_gguf, 3, ["cut.gguf"]),
    (header_only_gguf, 3, ["cut.gguf"]),
    (wrong_magic, 3, ["not a GGUF file"]),
    (empty_file, 3, ["empty.gguf"]),
    (gguf_without_a_tensor, 3, ["model.layers.1.mlp.up_proj.weight", "missing"]),
    (unknown_gguf_architecture, 3, ["unheard", "llama"]),
    (gguf_without_tokenizer, 3, ["tokenizer"]),
    (directory_without_a_tensor, 3, ["model.layers.1.mlp.up_proj.weight", "missing"]),
    (directory_without("config.json"), 3, ["config.json"]),
    (directory_without("tokenizer.json"), 3, ["tokenizer.json"]),
    (unknown_model_type, 3, ["lama", "llama", "mistral"]),
    (config_and_weights_of_two_models, 3, ["[48, 32]", "[64, 32]"]),
    (damaged_config, 3, ["config.json"]),
    (truncated_safetensors, 3, ["model.safetensors"]),
    (end_token_outside_the_vocabulary, 3, ["9999", "config.json"]),
    (no_such_path, 3, ["nothing.gguf"]),
    (unknown_alias, 3, ["smolm2", "smollm2"]),
    (empty_directory, 3, ["safetensors"]),
    (cache_on_a_file, 3, ["file"]),
    (bad_dtype, 2, ["--dtype f64", "f32"]),
    (context_too_long, 2, ["--ctx 100000", "256"]),
    (odd_block_size, 2, ["--block-size 24"]),
]
NAMED_BY_CLIENTS = CASES[:3] + CASES[4:7] + CASES[-3:-2]


def name(case: object) -> str | None:
    return getattr(case, "__name__", None) if callable(case) else None


def program(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rbee_worker", *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def check(done: subprocess.CompletedProcess[str], code: int, says: list[str]) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "internal" not in done.stderr
    assert " Fix: " in done.stderr
    assert [word for word in says if word not in done.stderr] == [], done.stderr


@pytest.mark.parametrize(("make", "code", "says"), CASES, ids=name)
def test_inspect_refuses(make: Make, code: int, says: list[str], tmp_path: Path) -> None:
    check(program("inspect", *make(tmp_path)), code, says)


@pytest.mark.parametrize(("make", "code", "says"), NAMED_BY_CLIENTS, ids=name)
def test_generate_refuses(make: Make, code: int, says: list[str], tmp_path: Path) -> None:
    ref, *options = make(tmp_path)
    check(program("generate", "Hello", "--model", ref, *options), code, says)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "code", "says"), NAMED_BY_CLIENTS, ids=name)
def test_it_costs_little_more_than_its_libraries(
    make: Make, code: int, says: list[str], tmp_path: Path
) -> None:
    ref, *options = make(tmp_path)
    args = ("generate", "Hello", "--model", ref, *options)

    def peer() -> float:
        return import_seconds(tmp_path, "asyncio, json, argparse, ssl, msgspec, numpy, tokenizers")

    assert ratio(lambda: cpu_seconds(tmp_path, *args), peer, enough=5) < 5
