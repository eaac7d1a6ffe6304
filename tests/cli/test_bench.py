"""`rbee-worker bench` on a tiny model: every figure is there, and they fit together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rbee_worker.models.random import random_checkpoint
from rbee_worker.models.shapes import SHAPES
from tests import tiny
from tests.cli.pseudo import Terminal

ROOT = Path(__file__).parents[2]
MANY = "64x16-192"
_SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 320}
LIKE = {  # what makes a shape small
    "minilm-l6": _SMALL | {"num_attention_heads": 4, "max_position_embeddings": 192},
    "modernbert-base": _SMALL | {"num_attention_heads": 4, "max_position_embeddings": 192},
    "metavoice-1b": _SMALL | {"num_attention_heads": 4, "num_key_value_heads": 4},
    "flan-t5-base": {
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 96,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "vocab_size": 320,
    },
}


def run(*args: str, code: int = 0) -> str:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RBEE_")}
    environ["RBEE_BACKEND"] = "reference"
    done = subprocess.run(
        [sys.executable, "-m", "rbee_worker", "bench", *args],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env=environ,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_every_figure_is_there(tmp_path: Path) -> None:
    model = tiny.write_safetensors(tmp_path / "tiny")
    found = json.loads(run(str(model), "--json", "--kv-tokens", "600", "--threads", "1"))
    assert found["backend"] == "reference"
    assert (found["dtype"], found["kv_dtype"], found["activations"]) == ("f32", "f32", "f32")
    assert found["instructions"] == ""
    ((prompt, rate),) = found["prefill_tok_s"].items()
    assert rate > 0
    assert found[f"decode_at_{prompt}_tok_s"] > 0
    assert set(found["decode_tok_s"]) == {"1", "8"}  # 64 do not fit into 600 tokens
    assert min(found["decode_tok_s"].values()) > 0
    assert 0 < found["load_s"] < found["first_token_s"]
    assert 0.5 < found["read_gb_s"] < 10_000
    assert 0 < found["bandwidth_share"] < 1
    kv = tiny.DIM // tiny.HEADS * tiny.KV_HEADS
    layer = tiny.DIM * (2 * tiny.DIM + 2 * kv + 3 * tiny.FFN)
    assert found["read_bytes"] == 4 * (tiny.LAYERS * layer + tiny.VOCAB * tiny.DIM)
    assert found["threads"] == 1


def test_for_a_person(tmp_path: Path) -> None:
    model = tiny.write_safetensors(tmp_path / "tiny")
    words = ["rbee-worker", "bench", str(model), "--kv-tokens", "600", "--threads", "1"]
    code = f"import sys; from rbee_worker.cli.main import main; sys.argv = {words!r}; main()"
    environ = {"RBEE_BACKEND": "reference", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with Terminal(code, tmp_path, **environ) as bench:
        bench.wait_for("Prefill of 128 tokens, 3 of 3.")
        bench.wait_for("Decoding one sequence after 16 tokens, 1 of 3.")
        bench.wait_for("Decoding 8 sequences after 16 tokens, 2 of 3: ")
        bench.wait_for("decode, 8 at once")
        bench.wait_for("GB/s; decoding uses")
        assert bench.leave() == 0


def test_what_it_cannot_do_is_one_line(tmp_path: Path) -> None:
    model = tiny.write_safetensors(tmp_path / "tiny")
    small = run(str(model), "--kv-tokens", "64", "--threads", "1", code=2)
    assert "error: a cache of 64 tokens" in small
    assert small.count("error:") == 1
    # what it sets itself is refused, not taken and left
    assert "--max-seqs" in run(str(model), "--max-seqs", "2", code=2)
    assert "--prefix-cache" in run(str(model), "--prefix-cache", code=2)
    assert "--draft-model" in run(str(model), "--draft-model", str(model), code=2)


def test_random_weights_need_no_checkpoint(tmp_path: Path) -> None:
    folder = tiny.write_safetensors(tmp_path / "tiny", without=("model.safetensors",))
    for file in folder.glob("*token*"):
        file.unlink()
    (folder / "model.safetensors").unlink()
    options = ("--kv-tokens", "600", "--threads", "1")
    config, form = str(folder / "config.json"), ("--random-format", "q8_0")
    found = json.loads(run("--random", config, *form, "--json", *options))
    assert found["model"] == f"random:q8_0:{config}"
    assert found["parameters"] == sum(t.size for t in tiny.tensors().values())
    assert found["notes"][0] == "the weights are random"
    assert found["decode_tok_s"]["1"] > 0
    assert "bandwidth_share" in found


@pytest.mark.slow
@pytest.mark.parametrize("shape", sorted(LIKE))
def test_every_kind_of_model(tmp_path: Path, shape: str) -> None:
    """Those that are no decoders alone, each of a published shape made small."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(dict(SHAPES[shape]) | LIKE[shape]))
    options = ("--kv-tokens", "4096", "--threads", "1")
    found = json.loads(run("--random", str(config), "--json", *options))
    if shape in ("minilm-l6", "modernbert-base"):
        assert list(found["vectors_tok_s"]) == list(found["texts_s"]) == ["1x128", "1x192", MANY]
        assert all(found["vectors_tok_s"][k] > found["texts_s"][k] > 0 for k in found["texts_s"])
        assert 0 < found["load_s"] < found["first_vector_s"]
        assert "bandwidth_share" not in found
        assert "decode_tok_s" not in found
    else:
        assert min(found["decode_tok_s"].values()) > 0
        assert 0 < found["bandwidth_share"] < 1
    assert found["read_bytes"] > 0


def test_published_shapes_can_be_read() -> None:
    """Their documentation names each of them."""
    page = (ROOT / "docs/worker-api.md").read_text()
    for shape in SHAPES:
        assert f"`{shape}`" in page
        assert random_checkpoint(shape).notes[0] == "the weights are random"


def test_random_weights_or_a_model(tmp_path: Path) -> None:
    both = run("smollm2", "--random", "llama-1b", code=2)
    assert both.startswith("error: both a model and --random were given.")
    assert "add --random" in run("smollm2", "--random-format", "q8_0", code=2)
    unknown = run("--random", "llama-9b", code=2)
    assert "llama-8b" in unknown
    assert unknown.count("error:") == 1
    run("--random", "llama-1b", "--random-format", "q9", code=2)
