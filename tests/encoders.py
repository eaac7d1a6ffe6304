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
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    Gemma3TextConfig,
    Gemma3TextModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    ModernBertModel,
    MPNetConfig,
    MPNetForSequenceClassification,
    MPNetModel,
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
UNUSED = tuple(f"[unused{n}]" for n in range(VOCAB - len(WORDS)))
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
    converter cannot write such a file, or leaves out what the model needs. slow: so are its
    tests."""

    id: str
    model: type[PreTrainedModel]
    config: Callable[[], PretrainedConfig]
    context: int = 256
    disk: Callable[[Arrays], Arrays] | None = None
    gguf: gguf.MODEL_ARCH | None = None
    slow: bool = False

    @property
    def classes(self) -> int:
        """How many classes its head scores; 0: it has none."""
        head = self.model.__name__.endswith("ForSequenceClassification")
        return int(self.config().num_labels) if head else 0


def made(kind: type[PretrainedConfig], **values: Any) -> Callable[[], PretrainedConfig]:
    return lambda: kind(**{**SHAPE, "max_position_embeddings": 256, **values})


_AFTER_PADDING: dict[str, Any] = {"max_position_embeddings": 258, "pad_token_id": 1}


def roberta(kind: type[PretrainedConfig], **values: Any) -> Callable[[], PretrainedConfig]:
    """Positions begin after the padding's id."""
    return made(kind, **_AFTER_PADDING | {"type_vocab_size": 1} | values)


def modern(**values: Any) -> Callable[[], PretrainedConfig]:
    return made(ModernBertConfig, **{"num_hidden_layers": 5, "local_attention": 24} | values)


def gemma(**values: Any) -> Callable[[], PretrainedConfig]:
    """Half of the window lies to each side of a token."""
    shape = {"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16}
    shape |= {"use_bidirectional_attention": True, "sliding_window": 24, "num_hidden_layers": 7}
    return made(Gemma3TextConfig, **{**shape, **values})


def distilled(**values: Any) -> Callable[[], PretrainedConfig]:
    """Under its own keys; without a table of two texts."""
    shape = {"dim": 64, "hidden_dim": 96, "n_layers": 3, "n_heads": 4, "pad_token_id": 0}
    given = {"vocab_size": VOCAB, "max_position_embeddings": 256, **shape, **values}
    return lambda: DistilBertConfig(**given)


def old_names(tensors: Arrays) -> Arrays:
    """The vectors of layer norms as the first files call them, and a table of positions."""
    ends = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    out = {}
    for name, array in tensors.items():
        end = next((e for e in ends if name.endswith(e)), None)
        out[name if end is None else name.removesuffix(end) + ends[end]] = array
    return out | {"embeddings.position_ids": np.arange(256)[None]}


BERT, MODERN = gguf.MODEL_ARCH.BERT, gguf.MODEL_ARCH.MODERN_BERT
GEMMA = gguf.MODEL_ARCH.GEMMA_EMBEDDING
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
    Row("mpnet", MPNetModel, made(MPNetConfig, **_AFTER_PADDING)),
    Row(
        "mpnet-one-class",
        MPNetForSequenceClassification,
        made(
            MPNetConfig,
            **_AFTER_PADDING,
            num_labels=1,
            hidden_act="gelu_new",
            num_attention_heads=8,
        ),
        slow=True,
    ),
    Row("distilbert-masked", DistilBertForMaskedLM, distilled(), gguf=BERT),
    Row(
        "distilbert-classes",
        DistilBertForSequenceClassification,
        distilled(num_labels=3, activation="relu"),
        slow=True,
    ),
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
    Row("gemma3", Gemma3TextModel, gemma(), gguf=GEMMA),
    Row(
        "gemma3-types",
        Gemma3TextModel,
        gemma(
            num_key_value_heads=1,
            num_hidden_layers=3,
            head_dim=32,
            query_pre_attn_scalar=40,
            sliding_window=9,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 5e3, "factor": 2.0},
            },
        ),
        slow=True,
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
                p.copy_((p * 1024).round() / 1024)  # GGUF's 1 + w - 1 is w then
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
    # llama.cpp's converter cuts rows off that have no token, but BERT's
    write_tokenizer(folder, WORDS if row.gguf != GEMMA else (*WORDS, *UNUSED))
    for name, content in files.items():
        at = folder / f"{name.replace('__', '/')}.json"
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(json.dumps(content))
    return folder


def write_dense(folder: Path, number: int, layer: torch.nn.Linear, act: torch.nn.Module) -> None:
    """A map of vectors as sentence-transformers writes it."""
    at = folder / f"{number}_Dense"
    at.mkdir(parents=True)
    kind = type(act)
    config = {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.bias is not None,
        "activation_function": f"{kind.__module__}.{kind.__qualname__}",
    }
    (at / "config.json").write_text(json.dumps(config))
    tensors = {f"linear.{name}": p.detach().numpy() for name, p in layer.named_parameters()}
    save_file(tensors, at / "model.safetensors", metadata={"format": "pt"})


def write_tokenizer(folder: Path, words: tuple[str, ...] = WORDS) -> None:
    """BERT's kind, of letters and a few words."""
    made = Tokenizer(models.WordPiece({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
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
    *, way: str = "mean_tokens", normalize: bool = True, longest: int = 0, dense: int = 0
) -> dict[str, Any]:
    """What sentence-transformers writes beside a model. dense: how many maps follow the pooling."""
    last = ["Normalize"] if normalize else []
    steps = ["Transformer", "Pooling", *["Dense"] * dense, *last]
    paths = ["", *(f"{n}_{step}" for n, step in enumerate(steps[1:], 1))]
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
        for prefix in ("bert.", "roberta.", "distilbert.", "model."):
            name = name.removeprefix(prefix)
        left_out = ("pooler.", "cls.", "decoder.", "vocab_")
        if name.startswith(left_out) or name.endswith("position_ids"):
            continue
        array = value.numpy()
        if name == "embeddings.position_embeddings.weight":
            array = array[first:]
        if row.classes and name.startswith("classifier.") and name.count(".") == 1:
            name = name.replace("classifier.", "classifier.out_proj.")
        if row.gguf == GEMMA and name.endswith("norm.weight"):
            array = array + np.float32(1)
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
    w.add_feed_forward_length(getattr(config, "hidden_dim", None) or config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_causal_attention(False)
    w.add_token_type_count(getattr(config, "type_vocab_size", 1))
    if row.gguf == GEMMA:
        w.add_layer_norm_rms_eps(config.rms_norm_eps)
        w.add_head_count_kv(config.num_key_value_heads)
        w.add_key_length(config.head_dim)
        w.add_value_length(config.head_dim)
        w.add_sliding_window(config.to_dict()["sliding_window"])  # all of it, to both sides
        w.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
    elif row.gguf == gguf.MODEL_ARCH.MODERN_BERT:
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
        w.add_layer_norm_eps(getattr(config, "layer_norm_eps", 1e-12))
    if row.classes:
        w.add_classifier_output_labels([config.id2label[n] for n in range(row.classes)])
    else:
        w.add_pooling_type(gguf.PoolingType.CLS)
    special = {*range(len(SPECIAL))}
    spelled = [
        word if n in special else word[2:] if word.startswith("##") else "\u2581" + word
        for n, word in enumerate((*WORDS, *UNUSED))
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
