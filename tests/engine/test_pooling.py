"""Vectors of decoders, whose rows come in chunks, beside cached prefixes and after preemptions: the
same bits as in one step, and near transformers' numbers."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3Model

from rbee_worker.config import Settings
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import Cancel, Finished, Pooled, Preempted, Submit, Tokens
from rbee_worker.engine.pooling import Pooled as Known
from rbee_worker.engine.pooling import add, finished, needed, vector
from rbee_worker.engine.runner import NO_NUMBERS
from rbee_worker.loading.load import load_engine
from rbee_worker.types import Pool, SamplingParams
from rbee_worker.verify.compare import relative_error

VOCAB = 97
NOTHING = SamplingParams(max_tokens=0)
WAYS = ("mean", "cls", "last")


@pytest.fixture(scope="module")
def model() -> Qwen3Model:
    torch.manual_seed(3)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        architectures=["Qwen3ForCausalLM"],
    )
    return Qwen3Model(config).float().eval()


@pytest.fixture(scope="module")
def path(model: Qwen3Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("decoder")
    whole = Qwen3ForCausalLM(model.config)
    whole.model = model
    whole.save_pretrained(folder)
    return folder


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def engine_of(path: Path, backend: str, **settings: object) -> Engine:
    chosen = Settings(model=str(path), backend=backend, threads=1, **settings)  # type: ignore[arg-type]
    return load_engine(chosen, lambda _: None)[0]


def texts(count: int = 6, shared: int = 0) -> list[tuple[int, ...]]:
    rng = random.Random(5)
    start = rng.choices(range(VOCAB), k=shared)
    return [tuple(start + rng.choices(range(VOCAB), k=rng.randint(1, 200))) for _ in range(count)]


def run(engine: Engine, given: dict[str, tuple[tuple[int, ...], Pool]]) -> dict[str, np.ndarray]:
    for name, (ids, pool) in given.items():
        engine.submit(Submit(seq=name, prompt_ids=ids, params=NOTHING, pool=pool))
    found = {}
    while not engine.idle:
        for m in engine.step():
            if isinstance(m, Pooled):
                found[m.seq] = np.frombuffer(m.data, "<f4")
            assert not isinstance(m, Finished) or m.error is None
    engine.pool.check()
    return found


def all_of(ids: list[tuple[int, ...]]) -> dict[str, tuple[tuple[int, ...], Pool]]:
    return {
        f"{how} {n}": (one, Pool(how=how))  # type: ignore[arg-type]
        for n, one in enumerate(ids)
        for how in WAYS
    }


def wanted(model: Qwen3Model, ids: tuple[int, ...], how: str) -> np.ndarray:
    with torch.inference_mode():
        rows = model(torch.tensor([ids])).last_hidden_state[0].double()
    pooled: np.ndarray = {"mean": rows.mean(0), "cls": rows[0], "last": rows[-1]}[how].numpy()
    return pooled


def test_a_decoders_rows_are_those_of_transformers(
    model: Qwen3Model, path: Path, backend: str
) -> None:
    """In steps of every size the same bits, which are near those of transformers."""
    given = all_of(texts())
    whole = run(engine_of(path, backend, token_budget=4096), given)
    for name, (ids, pool) in given.items():
        assert relative_error(whole[name], wanted(model, ids, pool.how)) < 1e-5
    for budget in (7, 64, 300):
        chunked = run(engine_of(path, backend, token_budget=budget), given)
        assert all(np.array_equal(chunked[name], whole[name]) for name in given), budget


def test_a_cached_prefix_changes_nothing(path: Path, backend: str) -> None:
    """A mean needs every row, so it reuses none; the last row does."""
    engine = engine_of(path, backend)
    given = all_of(texts(shared=64))
    first = run(engine, given)
    before = engine.stats().cached_tokens
    again = run(engine, given)
    assert all(np.array_equal(again[name], first[name]) for name in given)
    assert engine.stats().cached_tokens > before


def test_preempted_and_started_again(path: Path, backend: str) -> None:
    """Beside sequences that generate and take its blocks away."""
    engine = engine_of(path, backend, kv_tokens=256, ctx=256, token_budget=8)
    rng = random.Random(7)
    given = all_of([tuple(rng.choices(range(VOCAB), k=160)) for _ in range(2)])
    alone = run(engine_of(path, backend), given)
    for n in range(4):
        params = SamplingParams(max_tokens=40, ignore_eos=True, temperature=0.0)
        engine.submit(Submit(seq=f"other {n}", prompt_ids=(n, 5, 9), params=params))
    for name, (ids, pool) in given.items():
        engine.submit(Submit(seq=name, prompt_ids=ids, params=NOTHING, pool=pool))
    found, preempted, drawn = {}, 0, 0
    while not engine.idle:
        for m in engine.step():
            if isinstance(m, Pooled):
                found[m.seq] = np.frombuffer(m.data, "<f4")
            preempted += isinstance(m, Preempted)
            drawn += len(m.ids) if isinstance(m, Tokens) else 0
    assert drawn == 160
    assert preempted
    assert {*found} == {*alone}
    assert all(np.array_equal(found[name], alone[name]) for name in alone)
    engine.pool.check()


def test_a_cancelled_text_gives_nothing(path: Path) -> None:
    engine = engine_of(path, "reference", token_budget=16)
    ids = tuple(range(90)) * 2
    engine.submit(Submit(seq="a", prompt_ids=ids, params=NOTHING, pool=Pool(how="mean")))
    engine.step()
    engine.cancel(Cancel(seq="a"))
    told = engine.step()
    assert not [m for m in told if isinstance(m, Pooled)]
    assert [m.stop.rule for m in told if isinstance(m, Finished)] == ["CANCELLED"]
    engine.pool.check()


@pytest.mark.parametrize("how", WAYS)
def test_rows_are_taken_wherever_a_step_ends(how: str) -> None:
    pool = Pool(how=how)  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    rows = (rng.standard_normal((300, 5)) * 10.0 ** rng.integers(-3, 4, (300, 1))).astype(
        np.float32
    )
    want = {"mean": rows.astype(np.float64).mean(0), "cls": rows[0], "last": rows[-1]}[how]
    seen = set()
    for seed in range(50):
        cuts, known = random.Random(seed), Known()
        at = 0
        while at < 300:
            end = min(at + cuts.randint(1, 300 if seed % 2 else 9), 300)
            first, stop = needed(pool, at, end, 300)
            add(known, rows[first:stop], first)
            at = end
        got = vector(pool, known, 300)
        assert np.allclose(got, want, rtol=1e-5)
        seen.add(got.tobytes())
    assert len(seen) == 1


def test_maps_of_a_vector_do_not_hide_that_its_row_is_infinite(path: Path, tmp_path: Path) -> None:
    """Some activations make finite numbers of it."""
    damaged = shutil.copytree(path, tmp_path / "damaged")
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], torch.inf)
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    engine = engine_of(damaged, "cpu")
    engine.runner._dense = (np.tanh,)  # type: ignore[assignment]
    engine.submit(Submit(seq="a", prompt_ids=(5, 6), params=NOTHING, pool=Pool(how="last")))
    heard = []
    while not engine.idle:
        heard += engine.step()
    (end,) = [m for m in heard if isinstance(m, Finished)]
    assert end.error == NO_NUMBERS
    assert not [m for m in heard if isinstance(m, Pooled)]


def test_a_vector_of_zeros_stays_one() -> None:
    raw = finished(Pool(how="cls", normalize=True), np.zeros(4, np.float32))
    assert np.frombuffer(raw, "<f4").tolist() == [0.0] * 4


@pytest.mark.parametrize("tied", [True, False])
def test_a_decoder_saved_without_its_head(
    model: Qwen3Model, path: Path, backend: str, tied: bool, tmp_path: Path
) -> None:
    """As checkpoints for embeddings are: no head, and no prefix of the tensors' names. It generates
    only if the embedding is its head."""
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    words = json.loads(config.read_text()) | {"tie_word_embeddings": tied}
    config.write_text(json.dumps(words))
    settings = Settings(model=str(tmp_path), backend=backend, threads=1)  # type: ignore[arg-type]
    engine, info = load_engine(settings, lambda _: None)
    assert info.purpose.task == ("generate" if tied else "embed")
    assert (info.purpose.pooling.how, info.purpose.pooling.normalize) == ("last", True)
    given = all_of(texts(2))
    found, whole = run(engine, given), run(engine_of(path, backend), given)
    assert all(np.array_equal(found[name], whole[name]) for name in given)
