"""Encoders against transformers in float32: every row of tests/encoders.py, on both backends."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import CONFIG_MAPPING, AutoTokenizer

import rbee_worker
from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.config import Settings
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import Finished, Pooled, Submit
from rbee_worker.engine.runner import NO_NUMBERS
from rbee_worker.errors import UnsupportedModel, WrongModel
from rbee_worker.loading.load import load_engine
from rbee_worker.model_info import ModelInfo, Pooling
from rbee_worker.models import ENCODERS
from rbee_worker.models.config import read_config
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.types import Pool, SamplingParams
from rbee_worker.verify.compare import relative_error
from rbee_worker.verify.run import verify_report
from tests import encoders
from tests.encoders import ROWS, Row, hidden, oracle, scores, write, write_gguf
from tests.outlines import planned_model as planned

BOUND = 1e-5  # norm of the difference over norm
LENGTHS = (1, 5, 70, 256 - 3, 33, 70)
NOTHING = SamplingParams(max_tokens=0)
POOLS = {how: Pool(how=how) for how in ("mean", "cls", "last")}  # type: ignore[arg-type]
BY_ID = {row.id: row for row in ROWS}
EVERY = [pytest.param(r, id=r.id, marks=[pytest.mark.slow] if r.slow else []) for r in ROWS]

Load = Callable[..., tuple[Engine, ModelInfo]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(params=["reference", "cpu"])
def load(request: pytest.FixtureRequest, folder: Path) -> Load:
    def loaded(row: Row, **settings: object) -> tuple[Engine, ModelInfo]:
        path = folder / row.id
        if not path.exists():
            write(row, path)
        chosen = Settings(model=str(path), backend=request.param, threads=1, **settings)  # type: ignore[arg-type]
        return load_engine(chosen, lambda _: None)

    return loaded


def texts(row: Row, seed: int = 0) -> list[tuple[list[int], int]]:
    """(ids, the first position of the second of two texts, or 0)."""
    rng, found = random.Random(seed), []
    for number, length in enumerate(LENGTHS):
        ids = rng.choices(range(5, encoders.VOCAB), k=length)
        found.append((ids, length // 2 if number % 2 else 0))
    return found


def submit(engine: Engine, name: str, ids: list[int], pool: Pool, second: int = 0) -> None:
    engine.submit(Submit(seq=name, prompt_ids=tuple(ids), params=NOTHING, pool=pool, second=second))


def run(engine: Engine) -> dict[str, np.ndarray]:
    """The vectors of all that was submitted."""
    found: dict[str, np.ndarray] = {}
    while not engine.idle:
        for m in engine.step():
            if isinstance(m, Pooled):
                found[m.seq] = np.frombuffer(m.data, "<f4")
            elif isinstance(m, Finished):
                assert m.stop.rule == "VECTOR", m
                assert m.usage.output_tokens == 0
    engine.pool.check()
    return found


@pytest.mark.parametrize("row", EVERY)
def test_vectors_and_scores_are_those_of_transformers(row: Row, load: Load) -> None:
    """Of ragged texts in one batch; and alone, they have the same bits."""
    engine, info = load(row)
    assert info.context == row.context
    assert info.purpose.task == ("classify" if row.classes else "embed")
    pools = dict(POOLS)
    if row.classes:
        assert len(info.purpose.labels) == row.classes
        pools["head"] = Pool(how=info.purpose.pooling.how, head=True)
    given = texts(row)
    given = [(ids[: row.context], second) for ids, second in given]
    for number, (ids, second) in enumerate(given):
        for name, pool in pools.items():
            submit(engine, f"{name} {number}", ids, pool, second)
    together = run(engine)
    for number, (ids, second) in enumerate(given):
        states = hidden(row, ids, second).double()
        want = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}
        if row.classes:
            want["head"] = scores(row, ids, second)
        for name, wanted in want.items():
            got = together[f"{name} {number}"]
            assert got.shape == wanted.shape
            assert relative_error(got, wanted.numpy()) < BOUND, (name, number)
            submit(engine, "alone", ids, pools[name], second)
            assert np.array_equal(run(engine)["alone"], got)


@pytest.mark.parametrize("row", EVERY)
def test_nothing_is_left_unread(row: Row, folder: Path) -> None:
    """No key of the config and no tensor, but those that are named with a reason; and the plan
    counts what the model has."""
    path = write(row, folder / f"{row.id} read")
    ckpt = open_checkpoint(str(path))
    model = planned(ckpt, "f32")[0]
    assert not [note for note in model.notes if "nothing reads" in note], model.notes
    held = sum(p.numel() for p in oracle(row).parameters())
    skipped = sum(int(np.prod(ckpt.source.info(name).shape)) for name in model.skipped)
    extra = 256 if row.disk else 0
    assert model.n_parameters + skipped - extra == held


@pytest.mark.parametrize("row", [BY_ID["bert"], BY_ID["modernbert"]], ids=["bert", "modernbert"])
def test_a_text_longer_than_a_step_is_computed_in_one(row: Row, load: Load) -> None:
    """And a text never shares a step that has no room for all of it."""
    engine, _ = load(row, token_budget=100)
    given = texts(row, 1)
    chunks: list[list[int]] = []
    launch = engine.runner.launch

    def seen(plan):  # type: ignore[no-untyped-def]
        chunks.append([chunk.count for chunk in plan.chunks])
        return launch(plan)

    engine.runner.launch = seen  # type: ignore[method-assign]
    for number, (ids, second) in enumerate(given):
        submit(engine, str(number), ids, POOLS["mean"], second)
    found = run(engine)
    assert chunks == [[1, 5, 70], [253], [33], [70]]
    for number, (ids, second) in enumerate(given):
        want = hidden(row, ids, second).double().mean(0).numpy()
        assert relative_error(found[str(number)], want) < BOUND


def test_a_pool_without_room_lets_texts_wait(load: Load) -> None:
    engine, _ = load(BY_ID["bert"], kv_tokens=300, ctx=256)
    given = texts(BY_ID["bert"], 2) * 3
    for number, (ids, _) in enumerate(given):
        submit(engine, str(number), ids, POOLS["cls"])
    found = run(engine)
    for number, (ids, _) in enumerate(given):
        want = hidden(BY_ID["bert"], ids)[0].numpy()
        assert relative_error(found[str(number)], want) < BOUND


def test_cut_and_normalized(load: Load) -> None:
    """As many numbers as are asked for, of length 1."""
    engine, info = load(BY_ID["bert"])
    assert info.dimensions == 64
    ids, _ = texts(BY_ID["bert"])[2]
    for dimensions in (0, 1, 7, 64):
        pool = Pool(how="mean", dimensions=dimensions, normalize=True)
        submit(engine, str(dimensions), ids, pool)
    found = run(engine)
    whole = hidden(BY_ID["bert"], ids).double().mean(0)
    for dimensions in (0, 1, 7, 64):
        cut = whole[: dimensions or 64]
        want = (cut / cut.norm()).numpy()
        assert relative_error(found[str(dimensions)], want) < BOUND


def test_vectors_go_through_dense_maps(load: Load, folder: Path) -> None:
    """Before they are cut and normalised; and alone, they have the same bits."""
    row = dataclasses.replace(BY_ID["bert"], id="bert-dense")
    path = folder / row.id
    torch.manual_seed(3)
    maps = [(torch.nn.Linear(64, 96), torch.nn.GELU())]
    maps += [(torch.nn.Linear(96, 40, bias=False), torch.nn.Identity())]
    if not path.exists():
        write(row, path, **encoders.sentence_files(dense=2))
        for number, (layer, act) in enumerate(maps, 2):
            encoders.write_dense(path, number, layer, act)
    engine, info = load(row)
    assert info.purpose.pooling.dense == (96, 40)
    assert info.dimensions == 40
    own = sum(p.numel() for name, p in oracle(row).named_parameters() if "pooler" not in name)
    assert info.n_parameters == own + 65 * 96 + 96 * 40
    given = [ids for ids, _ in texts(row)]
    for number, ids in enumerate(given):
        for cut in (0, 7):
            pool = Pool(how="mean", dimensions=cut, normalize=info.purpose.pooling.normalize)
            submit(engine, f"{number} {cut}", ids, pool)
    together = run(engine)
    for number, ids in enumerate(given):
        want = hidden(row, ids).mean(0)
        with torch.inference_mode():
            for layer, act in maps:
                want = act(layer(want))
        for cut in (0, 7):
            kept = want[: cut or 40].double()
            got = together[f"{number} {cut}"]
            assert relative_error(got, (kept / kept.norm()).numpy()) < BOUND, (number, cut)
    submit(engine, "alone", given[2], Pool(how="mean", normalize=True))
    assert np.array_equal(run(engine)["alone"], together["2 0"])


@pytest.mark.parametrize("head", ["TokenClassification", "QuestionAnswering", "MultipleChoice"])
def test_other_heads_are_refused_by_name(head: str, folder: Path) -> None:
    path = write(BY_ID["bert"], folder / head)
    config = path / "config.json"
    config.write_text(config.read_text().replace("BertModel", f"BertFor{head}"))
    with pytest.raises(UnsupportedModel, match=f"BertFor{head}: encoders with this head"):
        planned(open_checkpoint(str(path)), "f32")


IN_GGUF = [row for row in ROWS if row.gguf is not None]


@pytest.mark.parametrize("row", IN_GGUF, ids=[row.id for row in IN_GGUF])
def test_a_gguf_file_gives_the_same(row: Row, folder: Path) -> None:
    """Bit for bit what the safetensors files give, and the same ids of texts."""
    both = []
    for path in (write(row, folder / f"{row.id} st"), write_gguf(row, folder / f"{row.id}.gguf")):
        settings = Settings(model=str(path), backend="cpu", threads=1)
        engine, info = load_engine(settings, lambda _: None)
        ckpt = open_checkpoint(str(path))
        assert not [note for note in info.notes if "nothing reads" in note], info.notes
        lacks = [note for note in info.notes if "no dense maps" in note]
        assert bool(lacks) == (row.gguf == encoders.GEMMA and path.suffix == ".gguf")
        for number, (ids, second) in enumerate(texts(row)):
            pool = info.purpose.pooling if row.classes else Pooling(how="cls")
            wanted = Pool(how=pool.how, head=bool(row.classes))
            submit(engine, str(number), ids[: row.context], wanted, second)
        both.append((run(engine), ckpt, info))
    (ours, ckpt, info), (theirs, packed, found) = both
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert found.purpose.labels == info.purpose.labels
    assert (found.context, found.vocab_size) == (info.context, info.vocab_size)
    if not row.classes:
        assert packed.sentence.pooling is not None
        assert packed.sentence.pooling.how == "cls"
    a, b = load_tokenizer(ckpt), load_tokenizer(packed)
    if row.gguf == encoders.BERT and "roberta" not in row.config().model_type:
        for text in ("The bee hums. 日本", "", "[SEP] héllo", "thebeehum the"):
            assert a.encode(text) == b.encode(text)
            assert a.encode_texts(text, "the bee?", most=9) == b.encode_texts(
                text, "the bee?", most=9
            )
            assert a.decode(a.encode(text)) == b.decode(b.encode(text))


@pytest.mark.parametrize("row", [BY_ID["bert"], BY_ID["modernbert"]], ids=["bert", "modernbert"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_packed_weights(row: Row, backend: str, folder: Path) -> None:
    """Near the oracle, and keys and values are kept in float32 all the same."""
    quant = gguf.GGMLQuantizationType.Q8_0
    path = write_gguf(row, folder / f"{row.id}-{backend}-q8.gguf", quant)
    settings = Settings(model=str(path), backend=backend, threads=1)  # type: ignore[arg-type]
    engine, info = load_engine(settings, lambda _: None)
    assert info.kv_dtype == "f32"
    ids, _ = texts(row)[2]
    submit(engine, "x", ids, POOLS["mean"])
    error = relative_error(run(engine)["x"], hidden(row, ids).mean(0).numpy())
    assert 1e-5 < error < 0.02


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bert-one-class", "but not the pooler before it"),
        ("distilbert-classes", "DistilBERT's classifier, whose activation"),
    ],
)
def test_a_classifier_that_converters_cut_is_refused(name: str, says: str, folder: Path) -> None:
    """llama.cpp's leaves the pooler out of BERT's files, and computes all others with tanh."""
    row = dataclasses.replace(BY_ID[name], gguf=encoders.BERT)
    path = write_gguf(row, folder / f"{name}-cut.gguf")
    with pytest.raises(UnsupportedModel, match=says):
        planned(open_checkpoint(str(path)), "f32")


def test_distances_that_transformers_does_not_compute_are_refused(folder: Path) -> None:
    path = write(BY_ID["mpnet"], folder / "mpnet-48")
    config = path / "config.json"
    config.write_text(config.read_text().replace('buckets": 32', 'buckets": 48'))
    with pytest.raises(UnsupportedModel, match="num_buckets is 48, but transformers computes 32"):
        planned(open_checkpoint(str(path)), "f32")


def test_every_encoder_has_a_row() -> None:
    """And so has the decoder that a key makes an encoder."""
    assert {row.config().model_type for row in ROWS} == {*ENCODERS, "gemma3_text"}


@pytest.mark.parametrize("row", EVERY)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_verify_compares_every_layer(row: Row, backend: str, folder: Path) -> None:
    path = folder / row.id
    if not path.exists():
        write(row, path)
    settings = Settings(model=str(path), backend=backend, threads=1)  # type: ignore[arg-type]
    found = verify_report(settings)
    assert found["ok"]
    assert found["compared"] == "rows"
    assert len(found["steps"]) == row.config().num_hidden_layers + 2
    assert all(step["alone"] < BOUND for step in found["steps"])


@pytest.mark.parametrize("model_type", ENCODERS)
def test_an_absent_key_means_what_it_does_in_transformers(model_type: str) -> None:
    theirs = CONFIG_MAPPING[model_type]()
    ours, _ = read_config(ENCODERS[model_type].config, encoders.SHAPE, where="x")
    named = {f.name for f in dataclasses.fields(ours)} - {*encoders.SHAPE, *OF_FILES}
    differing = {
        name: (getattr(ours, name), getattr(theirs, name, None))
        for name in named
        if getattr(ours, name) != getattr(theirs, name, getattr(ours, name))
    }
    assert not differing


# What transformers fills in, derives, or keeps elsewhere.
OF_FILES = {
    "id2label",
    "num_labels",
    "layer_types",
    "rope_parameters",
    "rope_scaling",
    "architectures",
}


def test_the_library_gives_vectors(folder: Path) -> None:
    row = BY_ID["bert"]
    path = write(row, folder / "library", **encoders.sentence_files())
    with rbee_worker.load(str(path), threads=1) as model:
        ids = [2, 5, 6, 70, 3]
        found = model.embed(["the bee", ids], dimensions=9)
        assert found.shape == (2, 9)
        want = hidden(row, ids).double().mean(0)[:9]
        assert relative_error(found[1], (want / want.norm()).numpy()) < BOUND
        assert np.array_equal(model.embed("the bee", dimensions=9), found[0])
        for call in (lambda: model.generate("x"), lambda: model.logits([1])):
            with pytest.raises(WrongModel, match="generates no text: it gives vectors"):
                call()


@pytest.mark.parametrize("way", ["mean", "cls", "last"])
def test_pooling_is_what_the_settings_say(way: str, folder: Path) -> None:
    row = BY_ID["bert"]
    path = write(row, folder / "pooling", **encoders.sentence_files(way="cls_token"))
    settings = Settings(model=str(path), backend="reference", pooling=way)  # type: ignore[arg-type]
    _, info = load_engine(settings, lambda _: None)
    assert info.purpose.pooling == Pooling(how=way, normalize=True, origin="--pooling")  # type: ignore[arg-type]


def test_rows_that_are_no_numbers_fail_their_text_alone(folder: Path, load: Load) -> None:
    """A damaged embedding of one token: others in the batch are what they were."""
    row = dataclasses.replace(BY_ID["bert"], id="bert-nan")
    path = write(row, folder / row.id)
    weights = load_file(path / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][77] = np.nan
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    engine, _ = load(row, kv_tokens=256, ctx=256)
    submit(engine, "good", [2, 5, 6, 3], POOLS["mean"])
    submit(engine, "bad", [2, *[77] * 210, 3], POOLS["mean"])
    found = {}
    while not engine.idle:
        for m in engine.step():
            if isinstance(m, Pooled):
                found[m.seq] = np.frombuffer(m.data, "<f4")
            if isinstance(m, Finished):
                assert (m.stop.rule, m.error) == {
                    "good": ("VECTOR", None),
                    "bad": ("ERROR", NO_NUMBERS),
                }[m.seq]
    assert {*found} == {"good"}
    for n in range(8):  # in memory that the bad one has left
        submit(engine, str(n), [2, 5, 6, 3], POOLS["mean"])
    assert all(np.array_equal(again, found["good"]) for again in run(engine).values())
    assert relative_error(found["good"], hidden(row, [2, 5, 6, 3]).mean(0).numpy()) < BOUND


def test_a_prompt_may_have_no_share_in_a_vector(folder: Path) -> None:
    """include_prompt: false, and numbers that are kept without being asked for; the prompt's tokens
    are counted as sentence-transformers counts them, of the prompt alone."""
    row, cut = BY_ID["bert"], 9
    said = {"pooling_mode": "mean", "include_prompt": False}
    files = {
        **encoders.sentence_files(),
        "1_Pooling__config": said,
        "config_sentence_transformers": {"prompts": {"query": "the bee "}, "truncate_dim": cut},
    }
    path = write(row, folder / "apart", **files)
    hf = AutoTokenizer.from_pretrained(path)
    before = len(hf("the bee ")["input_ids"]) - 1  # but for the closing token
    assert before == 3
    texts = ["a b", "hum 日 zoo"]
    with rbee_worker.load(str(path), backend="reference") as model:
        found = model.embed(texts, prompt_name="query")
        whole = model.embed(texts, dimensions=64)
    for text, got, plain in zip(texts, found, whole, strict=True):
        rows = hidden(row, hf(f"the bee {text}")["input_ids"]).double()
        want = rows[before:].mean(0)[:cut]
        assert relative_error(got, (want / want.norm()).numpy()) < BOUND
        want = hidden(row, hf(text)["input_ids"]).double().mean(0)
        assert relative_error(plain, (want / want.norm()).numpy()) < BOUND
