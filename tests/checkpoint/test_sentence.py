"""sentence-transformers' files beside a model: what they say, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.lacking import UNKNOWN
from rbee_worker.checkpoint.sentence import UNSAID, read_sentence
from rbee_worker.errors import CheckpointError, ModelError, UnsupportedModel
from rbee_worker.model_info import Pooling
from tests.encoders import ROWS, sentence_files, write_dense
from tests.encoders import write as write_encoder

PROMPTS = "config_sentence_transformers"


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        at = folder / f"{name.replace('__', '/')}.json"
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(json.dumps(content))
    return folder


def test_without_files_nothing_is_said(tmp_path: Path) -> None:
    assert read_sentence(tmp_path) == UNSAID


@pytest.mark.parametrize(
    ("way", "how"), [("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last")]
)
@pytest.mark.parametrize("normalize", [True, False])
def test_modules(tmp_path: Path, way: str, how: str, normalize: bool) -> None:
    write(tmp_path, **sentence_files(way=way, normalize=normalize, longest=77))
    found = read_sentence(tmp_path)
    wanted = Pooling(how=how, normalize=normalize, origin="1_Pooling/config.json")  # type: ignore[arg-type]
    assert found.pooling == wanted
    assert found.longest == 77
    assert not found.lower


def test_newer_files_name_the_way_in_one_word(tmp_path: Path) -> None:
    files = sentence_files() | {"1_Pooling__config": {"pooling_mode": "lasttoken"}}
    pooling = read_sentence(write(tmp_path, **files)).pooling
    assert pooling is not None
    assert pooling.how == "last"


# As sentence-transformers 6 reads them: (1_Pooling/config.json, the way).
WORDS: list[tuple[dict[str, Any], str]] = [
    ({"pooling_mode": "lasttoken", "pooling_mode_mean_tokens": True}, "last"),
    ({"pooling_mode": ["cls"]}, "cls"),
    ({"embedding_dimension": 12}, "mean"),
    ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": False}, "mean"),
]


@pytest.mark.parametrize(("config", "how"), WORDS)
def test_words_of_a_way(config: dict[str, Any], how: str, tmp_path: Path) -> None:
    write(tmp_path, **sentence_files() | {"1_Pooling__config": config})
    pooling = read_sentence(tmp_path).pooling
    assert pooling is not None
    assert (pooling.how, pooling.prompt) == (how, True)


def test_what_else_is_said(tmp_path: Path) -> None:
    """The tokens of prompts, numbers that are kept, and the file's names in older models."""
    files = sentence_files() | {
        "1_Pooling__config": {"pooling_mode": "mean", "include_prompt": False},
        PROMPTS: {"prompts": {"query": "Q: "}, "truncate_dim": 7},
        "sentence_xlm-roberta_config": {"max_seq_length": 128, "do_lower_case": True},
        "sentence_bert_config": {},
    }
    found = read_sentence(write(tmp_path, **files))
    assert found.pooling is not None
    assert not found.pooling.prompt
    assert (found.dimensions, found.longest, found.lower) == (7, 128, True)


# What files of sentence-transformers 6 say -> the longest text, beside a tokenizer's 300 tokens.
LENGTHS: list[tuple[dict[str, Any], int]] = [
    ({"sentence_bert_config": {}}, 300),
    ({"sentence_bert_config": {"max_seq_length": 77}}, 77),
    ({"sentence_bert_config": {"processing_kwargs": {"text": {"max_length": 50}}}}, 50),
    ({"sentence_bert_config": {"processor_kwargs": {"model_max_length": 60}}}, 60),
    ({"modules": None}, 0),
]


@pytest.mark.parametrize(("files", "longest"), LENGTHS)
def test_the_longest_text(files: dict[str, Any], longest: int, tmp_path: Path) -> None:
    """Without modules.json the tokenizer's number says nothing of vectors."""
    given = {k: v for k, v in (sentence_files() | files).items() if v is not None}
    write(tmp_path, **given)
    assert read_sentence(tmp_path, {"model_max_length": 300}).longest == longest


def test_a_cross_encoders_file(tmp_path: Path) -> None:
    said = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"}
    modules = [{"type": "sentence_transformers.base.modules.transformer.Transformer", "path": ""}]
    found = read_sentence(write(tmp_path, modules=modules, **{PROMPTS: said}))
    assert (found.pairs, found.activation, found.pooling) == (True, "none", None)


def test_prompts(tmp_path: Path) -> None:
    prompts = {"query": "Q: ", "document": ""}
    files = {PROMPTS: {"prompts": prompts, "default_prompt_name": "query"}}
    found = read_sentence(write(tmp_path, **files, sentence_bert_config={"do_lower_case": True}))
    assert (dict(found.prompts), found.prompt, found.lower) == (prompts, "query", True)
    assert found.pooling is None


def step(kind: str, path: str = "") -> dict[str, Any]:
    return {"type": f"sentence_transformers.models.{kind}", "path": path}


YES = {"true_token_id": 5}
TWO = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}


@pytest.mark.parametrize(
    ("files", "error", "says"),
    [
        ({"modules": {}}, CheckpointError, "is not a list of objects"),
        ({"modules": [1]}, CheckpointError, "is not a list of objects"),
        (
            {"modules": [step("Transformer"), step("Dense", "2_D"), step("Pooling", "1_Pooling")]},
            UnsupportedModel,
            "the step 'Dense' is not supported at its place",
        ),
        (
            {"modules": [step("Pooling", "1_Pooling"), step("Normalize"), step("Dense", "2_D")]},
            UnsupportedModel,
            "the step 'Dense' is not supported at its place",
        ),
        (
            {"modules": [step("LogitScore", "1_L"), step("Dense", "2_D")], "1_L__config": YES},
            UnsupportedModel,
            "the step 'Dense' is not supported at its place",
        ),
        (
            {"modules": [step("LogitScore", "1_L")], "1_L__config": YES},
            CheckpointError,
            "does not say CrossEncoder",
        ),
        ({"modules": [step("WordEmbeddings")]}, UnsupportedModel, "'WordEmbeddings' is not"),
        ({"1_Pooling__config": {}}, CheckpointError, "says no way of pooling"),
        (
            {"1_Pooling__config": {"pooling_mode_max_tokens": True}},
            UnsupportedModel,
            "pooling by max is not supported",
        ),
        (
            {"1_Pooling__config": TWO},
            UnsupportedModel,
            "pooling by cls and mean is not supported",
        ),
        (
            {"1_Pooling__config": {"pooling_mode": ["mean", "max"]}},
            UnsupportedModel,
            "pooling by mean and max is not supported",
        ),
        (
            {"2_Normalize__config": {"module_input_name": "token_embeddings"}},
            UnsupportedModel,
            "module_input_name is 'token_embeddings', which is not supported",
        ),
        (
            {"sentence_bert_config": {"transformer_task": "fill-mask"}},
            UnsupportedModel,
            "transformer_task is 'fill-mask', which is not supported",
        ),
        (
            {"sentence_bert_config": {"module_output_name": "sentence_embedding"}},
            UnsupportedModel,
            "module_output_name is 'sentence_embedding', which",
        ),
        (
            {"sentence_bert_config": {"processing_kwargs": {"text": {"truncation": "only_first"}}}},
            UnsupportedModel,
            "processing_kwargs.text.truncation is 'only_first', which",
        ),
        (
            {"sentence_bert_config": {"tokenizer_args": {"add_eos_token": True}}},
            UnsupportedModel,
            "tokenizer_args.add_eos_token is 'True', which",
        ),
        (
            {"sentence_bert_config": {"modality_config": {"text": {}, "message": {}}}},
            UnsupportedModel,
            "modality_config is 'message', which",
        ),
        (
            {PROMPTS: {"similarity_fn_name": "hamming"}},
            UnsupportedModel,
            "similarity_fn_name is 'hamming', which",
        ),
        (
            {PROMPTS: {"activation_fn": "torch.nn.modules.activation.Tanh"}},
            UnsupportedModel,
            "scores through 'torch.nn.modules.activation.Tanh' are not",
        ),
        (
            {"sentence_bert_config": {"config_args": {"use_cache": False, "is_causal": False}}},
            UnsupportedModel,
            "config_args.is_causal is 'False', which is not supported",
        ),
        (
            {"modules": [step("Transformer", "0_BERT")], "0_BERT__config": {"model_type": "bert"}},
            UnsupportedModel,
            "the transformer is in the folder '0_BERT'",
        ),
        ({"modules": [step("Pooling", "../../etc")]}, ModelError, ""),
        ({PROMPTS: {"prompts": {"a": 1}}}, CheckpointError, "prompts or default_prompt_name"),
        ({PROMPTS: {"prompts": ["a"]}}, CheckpointError, "prompts or default_prompt_name"),
        (
            {PROMPTS: {"prompts": {}, "default_prompt_name": "x"}},
            CheckpointError,
            "prompts or default_prompt_name",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(
    tmp_path: Path, files: dict[str, Any], error: type[ModelError], says: str
) -> None:
    write(tmp_path, **{**sentence_files(), **files})
    with pytest.raises(error) as caught:
        read_sentence(tmp_path)
    assert says in str(caught.value)
    assert len(str(caught.value)) <= 300


PLAIN = {"in_features": 64, "out_features": 9, "bias": True}


@pytest.mark.parametrize(
    ("config", "act"),
    [
        ({}, "Tanh"),  # version 6's default
        ({"activation_function": "torch.nn.modules.activation.ReLU"}, "ReLU"),
        ({"activation_function": "torch.nn.modules.linear.Identity"}, "Identity"),
        ({"module_input_name": "sentence_embedding", "module_output_name": None}, "Tanh"),
    ],
)
def test_a_dense_map(tmp_path: Path, config: dict[str, Any], act: str) -> None:
    layer = torch.nn.Linear(64, 9)
    write_dense(tmp_path, 2, layer, torch.nn.Tanh())
    path = write(tmp_path, **sentence_files(dense=1), **{"2_Dense__config": PLAIN | config})
    found = read_sentence(path)
    (dense,) = found.dense
    assert (dense.inputs, dense.outputs, dense.act) == (64, 9, act)
    assert dense.nbytes == 4 * (64 + 1) * 9
    weight, bias = dense.read()
    assert bias is not None
    assert torch.equal(torch.from_numpy(weight), layer.weight)
    assert torch.equal(torch.from_numpy(bias), layer.bias)
    assert found.pooling is not None
    assert found.pooling.dense == (9,)
    assert found.pooling.normalize


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        ({}, CheckpointError, "in_features and out_features are not two sizes"),
        (PLAIN | {"out_features": 0}, CheckpointError, "are not two sizes"),
        (PLAIN | {"out_features": 8}, CheckpointError, "its config.json says linear.bias [8]"),
        (PLAIN | {"bias": False}, CheckpointError, "has linear.bias [9], linear.weight [9, 64]"),
        (PLAIN | {"bias": 1}, UnsupportedModel, "bias is '1', which is not"),
        (
            PLAIN | {"activation_function": "torch.nn.modules.activation.PReLU"},
            UnsupportedModel,
            "activation_function is 'torch.nn.modules.activation.PReLU', which",
        ),
        (PLAIN | {"activation_function": None}, UnsupportedModel, "activation_function is 'None'"),
        (PLAIN | {"activation_function": "os.Tanh"}, UnsupportedModel, "is 'os.Tanh'"),
        (
            PLAIN | {"module_input_name": "token_embeddings"},
            UnsupportedModel,
            "module_input_name is 'token_embeddings'",
        ),
        (PLAIN | {"use_residual": True}, UnsupportedModel, "use_residual is 'True'"),
        (PLAIN | {"scale": 2.0}, UnsupportedModel, "scale is '2.0'"),
    ],
)
def test_a_dense_map_that_is_refused(
    tmp_path: Path, config: dict[str, Any], error: type[ModelError], says: str
) -> None:
    write_dense(tmp_path, 2, torch.nn.Linear(64, 9), torch.nn.Tanh())
    write(tmp_path, **sentence_files(dense=1), **{"2_Dense__config": config})
    with pytest.raises(error) as caught:
        read_sentence(tmp_path)
    assert says in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_weights_of_a_dense_map_that_are_not_there(tmp_path: Path) -> None:
    write_dense(tmp_path, 2, torch.nn.Linear(64, 9), torch.nn.Tanh())
    weights = tmp_path / "2_Dense/model.safetensors"
    write(tmp_path, **sentence_files(dense=1))
    save_file({"weight": torch.ones(9, 64)}, weights)
    with pytest.raises(CheckpointError, match="has weight "):
        read_sentence(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        read_sentence(tmp_path)


def test_a_snapshot_that_may_lack_them_is_told(tmp_path: Path) -> None:
    """In the hub's cache, of a model for vectors; anywhere else a folder is what it is."""
    row = next(row for row in ROWS if row.id == "bert")
    folder = write_encoder(row, tmp_path / "models--o--m" / "snapshots" / "abc")
    assert UNKNOWN in open_checkpoint(str(folder)).notes
    write(folder, **sentence_files())
    assert UNKNOWN not in open_checkpoint(str(folder)).notes
    plain = write_encoder(row, tmp_path / "plain")
    assert UNKNOWN not in open_checkpoint(str(plain)).notes
