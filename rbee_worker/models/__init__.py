"""The table of architectures: one row each. A new one adds a row here, a family file and test rows.

Importing this module imports no torch: a model can be checked and measured from a checkpoint's
names and shapes alone (`plan_model`), in a process without torch.
"""

from __future__ import annotations

import importlib
from collections import ChainMap
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.checkpoint.dense import check_sizes
from rbee_worker.checkpoint.limits import check_counts
from rbee_worker.checkpoint.unsupported import unsupported
from rbee_worker.errors import UnsupportedModel, WorkerError
from rbee_worker.models.base import Decoder
from rbee_worker.models.classes import CLASS_KEYS, class_head
from rbee_worker.models.config import read_config
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Ops
from rbee_worker.ops.plan import Outline, PlanOps

Progress = Callable[[int, int, int, int], None]  # layers done, layers, bytes read, bytes
Stacks = Literal["decoder", "encoder", "both"]


@dataclass(frozen=True)
class Architecture:
    """How a `model_type` becomes a model.

    The class and the function are given by name, so that a start imports one family's file, not
    all. text: the `model_type` of its text model, if it reads pictures too. stacks: what its blocks
    are: a decoder's, an encoder's, or of both.
    """

    config_name: str  # file.name within this package
    build_name: str
    title: str
    text: str = ""
    stacks: Stacks = "decoder"

    def stacks_of(self, config: Mapping[str, Any]) -> Stacks:
        """What the blocks of the model with this config are: an encoder's, where a key says that
        tokens of a decoder see later ones."""
        return "encoder" if config.get("use_bidirectional_attention") is True else self.stacks

    @property
    def config(self) -> type[Any]:
        """The dataclass whose fields are the config keys of this architecture."""
        return cast(type[Any], _named(self.config_name))

    @property
    def build(self) -> Callable[[Any, Weights], Decoder]:
        """The function that makes the model from its config and weights."""
        return cast(Callable[[Any, Weights], Decoder], _named(self.build_name))


# Classes of transformers that draw no tokens.
_WITHOUT_TEXT = ("EncoderModel", "ForSequenceClassification", "ForTokenClassification")
_TRIED = 8  # supported architectures that `check_architecture` tries on an unknown one's tensors


def _with(stacks: Stacks, rows: dict[str, Architecture]) -> dict[str, Architecture]:
    """Rows that all have these stacks."""
    return {name: replace(row, stacks=stacks) for name, row in rows.items()}


def _named(name: str) -> Any:
    file, _, what = name.partition(".")
    return getattr(importlib.import_module(f"{__name__}.{file}"), what)


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama.Config", "llama.build", "Llama 1-3.3, Yi, SmolLM2"),
    "mistral": Architecture("llama.Mistral", "llama.build_mistral", "Mistral 7B, Nemo"),
    "qwen2": Architecture("llama.Qwen2", "llama.build_qwen2", "Qwen 2, Qwen 2.5"),
    "qwen3": Architecture("llama.Qwen3", "llama.build_qwen3", "Qwen 3"),
    "mixtral": Architecture("mixture.Mixtral", "mixture.build_mixtral", "Mixtral"),
    "qwen2_moe": Architecture("mixture.Qwen2Moe", "mixture.build_qwen2", "Qwen 2 MoE"),
    "qwen3_moe": Architecture("mixture.Qwen3Moe", "mixture.build_qwen3", "Qwen 3 MoE"),
    "smollm3": Architecture("llama.SmolLM3", "llama.build", "SmolLM3"),
    "granite": Architecture("llama.Granite", "llama.build_granite", "Granite 3"),
    "granitemoe": Architecture("granitemoe.Config", "granitemoe.build", "Granite 3 MoE"),
    "granitemoeshared": Architecture(
        "granitemoe.Shared", "granitemoe.build_shared", "Granite 3 MoE, shared"
    ),
    "granitemoehybrid": Architecture("granitemoe.Hybrid", "granitemoe.build_hybrid", "Granite 4"),
    "helium": Architecture("llama.Helium", "llama.build_helium", "Helium"),
    "gemma": Architecture("gemma.Config", "gemma.build", "Gemma 1"),
    "gemma2": Architecture("gemma.Gemma2", "gemma.build_second", "Gemma 2"),
    "gemma3_text": Architecture("gemma.Gemma3", "gemma.build_third", "Gemma 3"),
    "phi": Architecture("phi.Config", "phi.build", "Phi 1, 1.5, 2"),
    "phi3": Architecture("phi3.Config", "phi3.build", "Phi 3, 3.5, 4"),
    "phimoe": Architecture("phimoe.Config", "phimoe.build", "Phi 3.5 MoE"),
    "glm": Architecture("glm.Config", "glm.build", "GLM-4-9b"),
    "glm4": Architecture("glm.Glm4", "glm.build_sandwich", "GLM-4-0414, Z1"),
    "glm4_moe": Architecture("glm4_moe.Config", "glm4_moe.build", "GLM-4.5, GLM-4.6"),
    "olmo": Architecture("olmo.Config", "olmo.build", "OLMo 1"),
    "olmo2": Architecture("olmo.Olmo2", "olmo.build_second", "OLMo 2"),
    "olmo3": Architecture("olmo.Olmo3", "olmo.build_third", "OLMo 3"),
    "stablelm": Architecture("stablelm.Config", "stablelm.build", "StableLM 1, 2"),
    "starcoder2": Architecture("starcoder2.Config", "starcoder2.build", "StarCoder2"),
    "cohere": Architecture("cohere.Config", "cohere.build", "Command-R"),
    "falcon": Architecture("falcon.Config", "falcon.build", "Falcon"),
    "mpt": Architecture("mpt.Config", "mpt.build", "MPT, Replit-code"),
    "gpt_bigcode": Architecture("bigcode.Config", "bigcode.build", "StarCoder 1"),
    "persimmon": Architecture("persimmon.Config", "persimmon.build", "Persimmon"),
    "deepseek_v2": Architecture("deepseek.V2", "deepseek.build_second", "DeepSeek V2"),
    "deepseek_v3": Architecture("deepseek.V3", "deepseek.build_third", "DeepSeek V3, R1"),
    "gemma4_text": Architecture("gemma4_config.Config", "gemma4.build", "Gemma 4"),
    "llama4_text": Architecture("llama4.Config", "llama4.build", "Llama 4"),
    "gpt_oss": Architecture("gptoss.Config", "gptoss.build", "GPT-OSS"),
    "nemotron": Architecture("nemotron.Config", "nemotron.build", "Nemotron 3, 4, Minitron"),
    "exaone4": Architecture("exaone4.Config", "exaone4.build", "EXAONE 4"),
    "dots1": Architecture("dots1.Config", "dots1.build", "dots.llm1"),
    "olmoe": Architecture("olmoe.Config", "olmoe.build", "OLMoE"),
    "hunyuan_v1_dense": Architecture(
        "hunyuan_v1_dense.Config", "hunyuan_v1_dense.build", "Hunyuan dense, Hy-MT"
    ),
    "seed_oss": Architecture("llama.SeedOss", "llama.build_seed_oss", "Seed-OSS"),
    "arcee": Architecture("arcee.Config", "arcee.build", "Arcee AFM"),
    "mamba": Architecture("mamba.Config", "mamba.build", "Mamba"),
    "falcon_mamba": Architecture("mamba.Falcon", "mamba.build", "Falcon-Mamba"),
    "mamba2": Architecture("mamba2.Config", "mamba2.build", "Mamba 2, Codestral Mamba"),
    "bamba": Architecture("bamba.Config", "bamba.build", "Bamba"),
    "nemotron_h": Architecture("nemotron_h.Config", "nemotron_h.build", "Nemotron-H, Nemotron 3"),
    "lfm2": Architecture("lfm2.Config", "lfm2.build", "LFM2"),
    "lfm2_moe": Architecture("lfm2.Mixture", "lfm2.build_mixture", "LFM2 MoE"),
    "jamba": Architecture("jamba.Config", "jamba.build", "Jamba"),
    "recurrent_gemma": Architecture(
        "recurrent_gemma.Config", "recurrent_gemma.build", "RecurrentGemma"
    ),
    "qwen3_next": Architecture("qwen3_next.Config", "qwen3_next.build", "Qwen3-Next"),
    "falcon_h1": Architecture("falcon_h1.Config", "falcon_h1.build", "Falcon-H1"),
    "based": Architecture("based.Config", "based.build", "Based"),
    "rwkv5": Architecture("rwkv.Config", "rwkv.build", "RWKV 5 (Eagle)"),
    "rwkv6": Architecture("rwkv.Rwkv6", "rwkv.build_sixth", "RWKV 6 (Finch)"),
    "rwkv7": Architecture("rwkv7.Config", "rwkv7.build", "RWKV 7 (Goose)"),
}

ENCODERS: dict[str, Architecture] = _with(
    "encoder",
    {
        "bert": Architecture("bert.Config", "bert.build", "BERT, MiniLM, BGE, E5, GTE"),
        "roberta": Architecture("bert.Roberta", "bert.build_roberta", "RoBERTa"),
        "xlm-roberta": Architecture("bert.Roberta", "bert.build_roberta", "XLM-RoBERTa, BGE-M3"),
        "camembert": Architecture("bert.Roberta", "bert.build_roberta", "CamemBERT"),
        "mpnet": Architecture("mpnet.Config", "mpnet.build", "MPNet"),
        "distilbert": Architecture("distilbert.Config", "distilbert.build", "DistilBERT"),
        "modernbert": Architecture(
            "modernbert.Config", "modernbert.build", "ModernBERT, GTE, Ettin"
        ),
    },
)
PAIRS: dict[str, Architecture] = _with(
    "both",
    {
        "t5": Architecture("t5.Config", "t5.build", "T5, Flan-T5, UL2"),
        "mt5": Architecture("t5.Mt5", "t5.build", "mT5"),
        "umt5": Architecture("t5.Umt5", "t5.build", "umT5"),
    },
)
SEEING: dict[str, Architecture] = {  # text models with a tower that reads pictures
    "idefics3": Architecture("idefics3.Config", "idefics3.build", "Idefics3", "llama"),
    "smolvlm": Architecture("idefics3.Config", "idefics3.build", "SmolVLM, SmolVLM2", "llama"),
    "moondream1": Architecture(
        "moondream.Config", "moondream.build", "Moondream 1, 2 (2024)", "phi"
    ),
}
SPEAKING: dict[str, Architecture] = {  # text to sound
    "metavoice": Architecture("metavoice.Config", "metavoice.build", "MetaVoice 1B"),
}
_ALL: Mapping[str, Architecture] = ChainMap(ARCHITECTURES, ENCODERS, PAIRS, SEEING, SPEAKING)


def architecture(name: str, *, where: str, config: Mapping[str, Any] | None = None) -> Architecture:
    """The row for a `model_type`. Raises UnsupportedModel, which names the supported ones."""
    if name not in _ALL:
        raise unsupported(name, _ALL, where, config=config)
    return _ALL[name]


def check_architecture(ckpt: Checkpoint) -> None:
    """Raise UnsupportedModel for an architecture that has no row. The error suggests one with the
    same structure: a model of it could be built from the checkpoint's names and shapes."""
    if ckpt.arch in _ALL:
        return
    where, nearest = str(ckpt.path), ""
    keys = {*ckpt.config}
    for other in sorted(ARCHITECTURES, key=lambda name: -_shared_keys(name, keys))[:_TRIED]:
        with suppress(WorkerError):
            plan_model(replace(ckpt, arch=other), PlanOps("f32"))
            nearest = other
            break
    raise unsupported(ckpt.arch, _ALL, where, config=ckpt.config, nearest=nearest)


def _shared_keys(name: str, keys: set[str]) -> int:
    """The number of a config's keys that an architecture reads."""
    return len(keys & {f.name for f in fields(ARCHITECTURES[name].config)})


def given_keys(ckpt: Checkpoint, config: type[Any]) -> dict[str, Any]:
    """The values that `ckpt` has for the fields of `config`. Keys that a GGUF file does not give
    are null: its tables know what llama.cpp assumes for an absent key; transformers' defaults do
    not."""
    unsaid = {f.name: None for f in fields(config)} if ckpt.gguf is not None else {}
    return unsaid | ckpt.config


def build_model(ckpt: Checkpoint, ops: Ops, progress: Progress | None = None) -> Decoder:
    """Build the model of a checkpoint, which computes with `ops`. Raises subclasses of
    ModelError."""
    where = str(ckpt.path)
    row = architecture(ckpt.arch, where=where, config=ckpt.config)
    check_counts(ckpt.config, ckpt.source, where)  # before lists of these lengths are built
    _check_causal(ckpt, row)
    _check_head(ckpt, row)
    config, unused = read_config(row.config, given_keys(ckpt, row.config), where=where)
    weights = Weights(ckpt.source, ops, where=where, progress=progress)
    head = None
    if row.stacks_of(ckpt.config) == "decoder":
        head = class_head(ckpt.config, weights, where) if ckpt.classifies else None
    model = row.build(config, weights)
    model = model if head is None else head.on(model)
    ops.weights_done()
    ckpt.source.release()
    notes = model.notes
    if head is not None:
        unused = [key for key in unused if key not in CLASS_KEYS]
    if unused:
        notes += (f"config keys that nothing reads: {', '.join(unused)}",)
    dense = ckpt.sentence.dense
    check_sizes(dense, model.width)
    if dense and model.purpose.task == "classify":
        raise UnsupportedModel(
            f"{where}: classifies texts, but its modules.json has dense maps of vectors.",
            fix="remove modules.json, or use a model that is made for one of both.",
        )
    parameters = weights.parameters + sum(one.parameters for one in dense)
    return replace(model, n_parameters=parameters, notes=notes)


def _check_causal(ckpt: Checkpoint, row: Architecture) -> None:
    """Raise UnsupportedModel for a decoder whose tokens see later ones: models for vectors are made
    so of decoders, with a key that transformers reads or with code of their authors' own."""
    if row.stacks != "decoder":
        return
    own = ckpt.config.get("auto_map")
    code = own.get("AutoModel") if isinstance(own, dict) else None
    found = ""
    if ckpt.config.get("is_causal") is False:
        found = "config: is_causal is false: tokens of this model see later ones"
    elif code and ckpt.sentence.pooling is not None:
        found = f"config: code of its authors' own makes this model's vectors ({str(code)[:60]})"
    if found:
        raise UnsupportedModel(
            f"{found}, which is not supported in a decoder.",
            fix="use an encoder, or a decoder for vectors that transformers computes as it is.",
        )


def _check_head(ckpt: Checkpoint, row: Architecture) -> None:
    """Raise UnsupportedModel for what has a head that is not served: for each token's class, or for
    classes in a pair or in a decoder whose tokens see later ones; and the encoder of a pair
    alone."""
    given = ckpt.config.get("architectures")
    named = [str(name) for name in given] if isinstance(given, list) else []
    heads, found = [], "encoders without their decoder, and heads for classes"
    if row.stacks == "both":
        heads = [name for name in named if name.endswith(_WITHOUT_TEXT)]
    elif row.stacks == "decoder":
        sees_later = row.stacks_of(ckpt.config) != "decoder"
        found = "decoders with a head for classes " + (
            "whose tokens see later ones" if sees_later else "of each token"
        )
        heads = [n for n in named if n.endswith(_WITHOUT_TEXT[1 if sees_later else 2 :])]
    if heads:
        raise UnsupportedModel(
            f"{heads[0][:60]}: {found} are not supported.",
            fix="use a model that generates, or one for vectors, classes or scores of whole texts.",
        )


def plan_model(ckpt: Checkpoint, ops: PlanOps) -> Decoder:
    """Build without reading data: every name and shape is checked, and `ops` counts every byte.

    Raises subclasses of ModelError.
    """
    check_architecture(ckpt)
    return outline_model(ckpt, cast(Ops, ops))


def outline_model(ckpt: Checkpoint, ops: Ops) -> Decoder:
    """Build with zeros for large tensors, which then take no memory. `ops` must keep no weights."""
    return build_model(replace(ckpt, source=Outline(ckpt.source)), ops)
