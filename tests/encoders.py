"""The table of tiny encoders: one row a variant, with transformers' class as the oracle.

A row's checkpoint has transformers' own files, with a WordPiece tokenizer made here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    CamembertConfig,
    CamembertModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    ModernBertModel,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = (*SPECIAL, *LETTERS, *(f"##{c}" for c in LETTERS), "the", "bee", "hum", ".", "?", "日")
VOCAB = 211
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Row:
    """model: transformers' class, made of `config`. disk: what the checkpoint on disk has in place
    of transformers' tensors. context: the longest text. gguf: llama.cpp's name for it; None: its
    converter cannot write such a file, or leaves out what the model needs."""

    id: str
    model: type[PreTrainedModel]
    config: Callable[[], PretrainedConfig]
    context: int = 256
    disk: Callable[[Arrays], Arrays] | None = None
    gguf: gguf.MODEL_ARCH | None = None

    @property
    def classes(self) -> int:
        """How many classes its head scores; 0: it has none."""
        head = self.model.__name__.endswith("ForSequenceClassification")
        return int(self.config().num_labels) if head else 0


def made(kind: type[PretrainedConfig], **values: Any) -> Callable[[], PretrainedConfig]:
    return lambda: kind(**{**SHAPE, "max_position_embeddings": 256, **values})


def roberta(kind: type[PretrainedConfig], **values: Any) -> Callable[[], PretrainedConfig]:
    """Positions begin after the padding's id."""
    return made(
        kind, **{"max_position_embeddings": 258, "type_vocab_size": 1, "pad_token_id": 1} | values
    )


def modern(**values: Any) -> Callable[[], PretrainedConfig]:
    return made(ModernBertConfig, **{"num_hidden_layers": 5, "local_attention": 24} | values)


def old_names(tensors: Arrays) -> Arrays:
    """The vectors of layer norms as the first files call them, and a table of positions."""
    ends = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    out = {}
    for name, array in tensors.items():
        end = next((e for e in ends if name.endswith(e)), None)
        out[name if end is None else name.removesuffix(end) + ends[end]] = array
    return out | {"embeddings.position_ids": np.arange(256)[None]}


BERT, MODERN = gguf.MODEL_ARCH.BERT, gguf.MODEL_ARCH.MODERN_BERT
ROWS = (
    Row("bert", BertModel, made(BertConfig), gguf=BERT),
    Row("bert-relu-narrow", BertModel, made(BertConfig, hidden_act="relu", hidden_size=32)),
    Row("bert-old-names", BertModel, made(BertConfig), disk=old_names),
    Row("bert-masked", BertForMaskedLM, made(BertConfig), gguf=BERT),
    Row("bert-classes", BertForSequenceClassification, made(BertConfig, num_labels=3)),
    Row("bert-one-class", BertForSequenceClassification, made(BertConfig, num_labels=1)),
    Row("roberta", RobertaModel, roberta(RobertaConfig), gguf=BERT),
    Row("roberta-classes", RobertaForSequenceClassification, roberta(RobertaConfig, num_labels=2)),
    Row("xlm-roberta", XLMRobertaModel, roberta(XLMRobertaConfig, hidden_act="gelu_new")),
    Row(
        "xlm-roberta-one-class",
        XLMRobertaForSequenceClassification,
        roberta(XLMRobertaConfig, num_labels=1),
        gguf=BERT,
    ),
    Row("camembert", CamembertModel, roberta(CamembertConfig, pad_token_id=3), context=254),
    Row("modernbert", ModernBertModel, modern(global_attn_every_n_layers=2), gguf=MODERN),
    Row(
        "modernbert-biases",
        ModernBertModel,
        modern(
            norm_bias=True,
            attention_bias=True,
            mlp_bias=True,
            global_attn_every_n_layers=2,
            local_attention=9,
            global_rope_theta=5000.0,
            local_rope_theta=500.0,
            hidden_activation="gelu_pytorch_tanh",
        ),
    ),
    Row("modernbert-masked", ModernBertForMaskedLM, modern()),
    Row(
        "modernbert-classes",
        ModernBertForSequenceClassification,
        modern(num_labels=4),
        gguf=MODERN,
    ),
    Row(
        "modernbert-mean-classes",
        ModernBertForSequenceClassification,
        modern(
            num_labels=1,
            classifier_pooling="mean",
            classifier_bias=True,
            classifier_activation="silu",
            norm_bias=True,
        ),
    ),
)


@cache
def oracle(row: Row) -> PreTrainedModel:
    """The model with random weights, float32; biases and norms random too, seeded."""
    torch.manual_seed(7)
    model = row.model(row.config()).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.copy_(torch.randn_like(p) * 0.3 + (1.0 if "orm.weight" in name else 0.0))
            else:
                p.mul_(4.0)  # 0.02 gives nearly linear blocks: errors would hide
    return model


def hidden(row: Row, ids: list[int], second: int = 0) -> torch.Tensor:
    """The last hidden state of one text, or of two: [n, dim]."""
    model = oracle(row)
    base = getattr(model, model.base_model_prefix, model)
    with torch.inference_mode():
        found: torch.Tensor = base(**inputs(row, ids, second)).last_hidden_state[0]
    return found


def scores(row: Row, ids: list[int], second: int = 0) -> torch.Tensor:
    """The classes' scores."""
    with torch.inference_mode():
        found: torch.Tensor = oracle(row)(**inputs(row, ids, second)).logits[0]
    return found


def inputs(row: Row, ids: list[int], second: int) -> dict[str, torch.Tensor]:
    """transformers' inputs. second: the first position of the second text."""
    given = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}
    if second and getattr(row.config(), "type_vocab_size", 0) > 1:
        given["token_type_ids"] = (torch.arange(len(ids)) >= second).long()[None]
    return given


def write(row: Row, folder: Path, **files: Any) -> Path:
    """The row's checkpoint with its tokenizer. files: others, by name with __ for a folder and
    without ".json"."""
    oracle(row).save_pretrained(folder)
    if row.config().model_type == "modernbert":  # as published files have it
        config = json.loads((folder / "config.json").read_text())
        config["layer_norm_eps"] = config["norm_eps"]
        (folder / "config.json").write_text(json.dumps(config))
    if row.disk is not None:
        weights = folder / "model.safetensors"
        save_file(row.disk(load_file(weights)), weights, metadata={"format": "pt"})
    write_tokenizer(folder)
    for name, content in files.items():
        at = folder / f"{name.replace('__', '/')}.json"
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(json.dumps(content))
    return folder


def write_tokenizer(folder: Path) -> None:
    """BERT's kind, of letters and a few words."""
    made = Tokenizer(models.WordPiece({w: n for n, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    made.decoder = decoders.WordPiece()
    made.add_special_tokens([*SPECIAL])
    made.save(str(folder / "tokenizer.json"))
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    config = {"tokenizer_class": "BertTokenizer", "unk_token": "[UNK]", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def sentence_files(
    *, way: str = "mean_tokens", normalize: bool = True, longest: int = 0
) -> dict[str, Any]:
    """What sentence-transformers writes beside a model."""
    steps = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    return {
        "modules": [
            {
                "idx": n,
                "name": str(n),
                "path": paths[n],
                "type": f"sentence_transformers.models.{step}",
            }
            for n, step in enumerate(steps)
        ],
        "1_Pooling__config": {
            "word_embedding_dimension": 64,
            **{
                f"pooling_mode_{one}": one == way
                for one in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
            },
        },
        "sentence_bert_config": {"max_seq_length": longest or None, "do_lower_case": False},
    }


def gguf_tensors(row: Row) -> Arrays:
    """Names and values as llama.cpp's converter gives them."""
    config = row.config()
    assert row.gguf is not None
    names = gguf.get_tensor_name_map(row.gguf, config.num_hidden_layers)
    first = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    out = {}
    for name, value in oracle(row).state_dict().items():
        for prefix in ("bert.", "roberta.", "model."):
            name = name.removeprefix(prefix)
        if name.startswith(("pooler.", "cls.", "decoder.")) or name.endswith("position_ids"):
            continue  # left out
        array = value.numpy()
        if name == "embeddings.position_embeddings.weight":
            array = array[first:]
        if row.classes and name.startswith("classifier.") and name.count(".") == 1:
            name = name.replace("classifier.", "classifier.out_proj.")
        stem, _, suffix = name.rpartition(".")
        found = names.get_name(stem)
        assert found is not None, name
        out[f"{found}.{suffix}"] = np.ascontiguousarray(array, np.float32)
    return out


def write_gguf(
    row: Row, path: Path, quant: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32
) -> Path:
    """A GGUF file of the model, with its tokenizer; matrices of the layers in `quant`."""
    assert row.gguf is not None
    config, arch = row.config(), gguf.MODEL_ARCH_NAMES[row.gguf]
    w = gguf.GGUFWriter(path, arch)
    w.add_context_length(row.context)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_causal_attention(False)
    w.add_token_type_count(getattr(config, "type_vocab_size", 1))
    if row.gguf == gguf.MODEL_ARCH.MODERN_BERT:
        w.add_layer_norm_eps(config.norm_eps)
        w.add_sliding_window(config.local_attention)
        if (every := getattr(config, "global_attn_every_n_layers", None)) is not None:
            w.add_sliding_window_pattern(every)
        w.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
        w.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
        w.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        w.add_vocab_size(config.vocab_size)
        w.add_string(f"{arch}.hidden_activation", config.hidden_activation)
        pooling = {"cls": gguf.PoolingType.CLS, "mean": gguf.PoolingType.MEAN}
        w.add_uint32(f"{arch}.classifier.pooling_type", int(pooling[config.classifier_pooling]))
    else:
        w.add_layer_norm_eps(config.layer_norm_eps)
    if row.classes:
        w.add_classifier_output_labels([config.id2label[n] for n in range(row.classes)])
    else:
        w.add_pooling_type(gguf.PoolingType.CLS)
    special = {*range(len(SPECIAL))}
    rest = [f"[unused{n}]" for n in range(VOCAB - len(WORDS))]
    spelled = [
        word if n in special else word[2:] if word.startswith("##") else "\u2581" + word
        for n, word in enumerate((*WORDS, *rest))
    ]
    w.add_tokenizer_model("bert")
    w.add_tokenizer_pre("default")
    w.add_token_list(spelled)
    kinds = gguf.TokenType
    w.add_token_types([int(kinds.CONTROL if n in special else kinds.NORMAL) for n in range(VOCAB)])
    w.add_unk_token_id(1)
    w.add_sep_token_id(3)
    w.add_pad_token_id(0)
    w.add_uint32("tokenizer.ggml.cls_token_id", 2)
    for name, array in gguf_tensors(row).items():
        packed = name.startswith("blk.") and array.ndim == 2
        if packed and quant != gguf.GGMLQuantizationType.F32:
            w.add_tensor(name, gguf.quants.quantize(array, quant), raw_dtype=quant)
        else:
            w.add_tensor(name, array)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path
