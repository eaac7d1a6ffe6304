"""What is odd about a checkpoint is heard of by everyone who uses it, not by `inspect` alone."""

import json
from pathlib import Path

import pytest

from tests import tiny
from tests.cli.test_bad_models import check, program

ROW = f"the model has {tiny.VOCAB} rows for tokens, but the tokenizer has 1 tokens beyond them"
KEY = "config keys that nothing reads: odd_key"
PLACED = "generation_config.json: num_beams (4) is not applied by this worker"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a token beyond its table, a key nobody knows and a default that is not kept."""
    made = tiny.write_safetensors(tmp_path_factory.mktemp("odd") / "m", odd_key=1)
    (made / "added_tokens.json").write_text(json.dumps({"<image>": tiny.VOCAB}))
    (made / "generation_config.json").write_text('{"num_beams": 4}')
    (made / "vocab.txt").write_text("x")
    return made


def missing(said: str) -> list[str]:
    return [note for note in (ROW, KEY, PLACED) if note not in said]


def test_inspect_tells_all(folder: Path) -> None:
    done = program("inspect", str(folder), "--json")
    found = json.loads(done.stdout)
    assert missing("\n".join(found["warnings"])) == []
    assert found["skipped"]["vocab.txt"] == "tokenizer.json has the vocabulary"


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_generate_tells_all_and_refuses_a_token_without_a_row(folder: Path, backend: str) -> None:
    model = ("--model", str(folder), "--backend", backend, "--max-tokens", "1")
    done = program("generate", "a", "--json", *model)
    assert missing("\n".join(json.loads(done.stdout)["warnings"])) == []
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert missing("\n".join(notes)) == []
    refused = program("generate", "a<image>", "--quiet", *model)
    assert refused.stderr.count("note: ") == 0
    check(refused, 2, ["prompt: has the token '<image>'", f"id {tiny.VOCAB}"])
