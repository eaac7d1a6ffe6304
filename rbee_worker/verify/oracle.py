"""The HF model of a checkpoint, in float32 on the CPU.

transformers reads a directory itself. A GGUF file, or a directory with the names of the model's own
code, is decoded here and given to transformers under HF's names.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.checkpoint.formats import TensorSource
from rbee_worker.checkpoint.names import DIALECTS
from rbee_worker.checkpoint.reading import read_json
from rbee_worker.errors import UnsupportedModel
from rbee_worker.models import Stacks, architecture, given_keys
from rbee_worker.ops.reference.dequant import dequantize
from rbee_worker.verify.corrected import CORRECTIONS
from rbee_worker.verify.gathered import GATHERED
from rbee_worker.verify.quiet import quiet
from rbee_worker.verify.renaming import long_rope_of, rope_divisors, state_for
from rbee_worker.verify.text_half import text_half

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Oracle:
    """model: HF's; by: who read the weights, as text."""

    model: PreTrainedModel
    by: str

    @property
    def title(self) -> str:
        """The model's class, and its origin: a version of transformers, or this package."""
        import transformers

        name = type(self.model).__name__
        if name in (model.__name__ for _, model in own_models()):
            return f"{name}, written from the paper: transformers has no such model"
        return f"{name} of transformers {transformers.__version__}"


def load_oracle(ckpt: Checkpoint) -> Oracle:
    """The HF model with this checkpoint's weights; of one that reads pictures, the text model.

    Raises UnsupportedModel if transformers does not support this model.
    """
    ckpt = text_half(ckpt)
    kind: Any = _class(ckpt)  # transformers' classes have no usable annotations
    # Tensors of other sizes are reported by `_check`, in one line.
    options: dict[str, Any] = {"dtype": torch.float32, "ignore_mismatched_sizes": True}
    if ckpt.config.get("attn_logit_softcapping"):
        options["attn_implementation"] = "eager"  # HF's other implementations ignore soft caps
    with quiet():
        if ckpt.kind == "safetensors" and _theirs(ckpt):
            path = str(ckpt.path)
            options |= {"local_files_only": True, "use_safetensors": True}
            model, said = kind.from_pretrained(path, output_loading_info=True, **options)
            by = "transformers itself"
        else:
            config = hf_config(ckpt)
            tensors = state_for(ckpt.source, _wanted(kind, config), ckpt.config, ckpt.arch)
            model, said = kind.from_pretrained(
                None, config=config, state_dict=tensors, output_loading_info=True, **options
            )
            by = f"decoded from the {ckpt.kind} file, under HF's names"
            _divide(model, rope_divisors(ckpt.source))
    _check(ckpt, said)
    before = set(model.state_dict())
    for correct in CORRECTIONS.get(ckpt.arch, ()):
        correct(model)
    _fill(model, ckpt.source, set(model.state_dict()) - before)
    return Oracle(model.eval(), by)


def hf_config(ckpt: Checkpoint) -> PretrainedConfig:
    """The checkpoint's config under transformers' keys."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[ckpt.arch]
    given = given_keys(ckpt, architecture(ckpt.arch, where=str(ckpt.path)).config)
    fields = {f.name: f.type for f in dataclasses.fields(kind)}
    dialect = DIALECTS.get(ckpt.arch)
    for theirs, ours in (dialect.keys if dialect else {}).items():
        if theirs in fields and ours in given:
            given[theirs] = given[ours]
    given |= GATHERED.get(ckpt.arch, _nothing)(ckpt)
    if labels := ckpt.config.get("classifier_labels"):
        given["num_labels"] = len(labels)
    typed = given.get("rope_parameters") is not None  # with one entry per layer type
    if "rope_parameters" in fields and "rope_scaling" in given and not typed:
        # A file's own tensors say more about LongRoPE than its keys.
        unscaled = {"rope_type": "default"}
        given["rope_scaling"] = long_rope_of(ckpt) or given["rope_scaling"] or unscaled
    fixed = {"model_type", "quantization_config", *(k for k in given if _read_only(kind, k))}
    # null is passed only for keys where HF's class accepts it.
    lost = {k for k, v in given.items() if v is None and "None" not in str(fields.get(k, ""))}
    kept = {k: v for k, v in given.items() if k not in fixed | lost}
    # HF's default may be outside the vocabulary; a forward pass does not use it.
    return kind(**{"pad_token_id": None, **kept})


def _read_only(kind: Any, key: str) -> bool:
    found = getattr(kind, key, None)
    return isinstance(found, property) and found.fset is None


def _nothing(ckpt: Checkpoint) -> dict[str, Any]:
    return {}


def own_models() -> Sequence[tuple[type[PretrainedConfig], type[PreTrainedModel]]]:
    """The models that transformers lacks; it knows them from now on."""
    from rbee_worker.verify import based, rwkv

    rwkv.register()
    based.register()
    return (*rwkv.MODELS, *based.MODELS)


def _class(ckpt: Checkpoint) -> Any:
    from transformers import (
        CONFIG_MAPPING,
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        MODEL_MAPPING,
    )

    own_models()
    classes: Mapping[Stacks, Any] = {
        "decoder": MODEL_FOR_CAUSAL_LM_MAPPING,
        "encoder": MODEL_MAPPING,
        "both": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    }
    stacks = architecture(ckpt.arch, where=str(ckpt.path)).stacks_of(ckpt.config)
    known = classes[stacks]
    if stacks == "decoder" and ckpt.classifies:
        known = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if ckpt.arch not in CONFIG_MAPPING or CONFIG_MAPPING[ckpt.arch] not in known:
        raise UnsupportedModel(
            f"{ckpt.path}: transformers has no model of type {ckpt.arch!r} to compare with.",
            fix="install a newer transformers.",
        )
    return known[CONFIG_MAPPING[ckpt.arch]]


def _theirs(ckpt: Checkpoint) -> bool:
    """Whether transformers reads the directory's own model_type, and its weights are plain."""
    config = read_json(ckpt.path / "config.json")
    return config.get("model_type") == ckpt.arch and not config.get("quantization_config")


def _wanted(kind: Any, config: PretrainedConfig) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the HF model's tensors."""
    with torch.device("meta"):
        model = kind(config)
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


def _check(ckpt: Checkpoint, said: Mapping[str, Any]) -> None:
    """Refuse a missing tensor: HF would fill it with random numbers."""
    ignored = re.compile(r"rotary_emb\.inv_freq|masked_bias|\.attn\.bias$|^pooler\.")
    missing = [n for n in said.get("missing_keys", ()) if not ignored.search(n)]
    bad = [*missing, *(str(x) for x in said.get("mismatched_keys", ()))]
    if bad:
        raise UnsupportedModel(
            f"{ckpt.path}: transformers' model lacks {len(bad)} of its tensors, such as {bad[0]}.",
            fix="compare with the original directory: --against DIR.",
        )


def _fill(model: PreTrainedModel, source: TensorSource, names: set[str]) -> None:
    """Load the weights of modules that a correction has added."""
    model.load_state_dict({n: dequantize(source.read(n)).float() for n in names}, strict=False)


def _divide(model: PreTrainedModel, divisors: Tensor | None) -> None:
    """Apply frequency divisors, which only GGUF files have."""
    if divisors is None:
        return
    for name, module in model.named_modules():
        if name.endswith("rotary_emb"):
            # Gemma 4 has a table per layer type, and divides the one for full attention.
            for at in ("inv_freq", "full_attention_inv_freq"):
                if hasattr(module, at):
                    getattr(module, at).div_(divisors)
            if hasattr(module, "original_inv_freq"):
                module.original_inv_freq = module.inv_freq
