"""The tiny checkpoints of tests/archs as llama.cpp's converter takes them, and what it makes of
them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rbee_worker.verify.oracle import own_models
from tests.archs import VOCAB, Arch, write_checkpoint

CONVERT = Path(__file__).with_name("convert.py")
# Published checkpoints name their architecture otherwise than transformers' class is called today.
PUBLISHED = {"MptForCausalLM": "MPTForCausalLM", "PhimoeForCausalLM": "PhiMoEForCausalLM"}
KEYS = {"deepseek_v3": {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}}
# Hybrids whose published files have other words for the kinds of layers.
HYBRIDS = ("granitemoehybrid",)
WORDS = {"linear_attention": "mamba", "full_attention": "attention"}
SPECIAL = ("<unk>", "<s>", "</s>")
MERGES = ("t h", "th e")


def as_published(arch: Arch, folder: Path) -> str:
    """Gives a row's config the keys that published files have beside transformers' own. Returns the
    name by which the converter knows the architecture; "": the row's files have none."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    names = config.get("architectures") or []
    names = [_transformers_class(arch) if n == arch.model.__name__ else n for n in names]
    config |= {"architectures": [PUBLISHED.get(n, n) for n in names]}
    config |= KEYS.get(config["model_type"], {})
    if config["model_type"] == "falcon" and not config["new_decoder_architecture"]:
        # transformers 5 tells the converter that there are as many as heads of queries.
        config["num_kv_heads"] = 1 if config["multi_query"] else config["num_attention_heads"]
    if config["model_type"] == "bamba":
        config["attn_rotary_emb"] = config["hidden_size"] // config["num_attention_heads"] // 2
    if config["model_type"] == "nemotron_h":
        _as_letters(config)
    if config["model_type"] in HYBRIDS:
        config["layer_types"] = [WORDS.get(kind, kind) for kind in config["layer_types"]]
    path.write_text(json.dumps(config))
    return names[0] if names else ""


def _as_letters(config: dict[str, Any]) -> None:
    """The kinds of Nemotron-H's layers as published files have them; without experts, these have no
    keys of any."""
    kinds = config.pop("layers_block_type")
    letters = {"linear_attention": "M", "full_attention": "*", "mlp": "-", "moe": "E"}
    config["hybrid_override_pattern"] = "".join(letters[kind] for kind in kinds)
    config["num_hidden_layers"] = len(kinds)
    if "moe" not in kinds:
        for key in [k for k in config if "expert" in k or k.startswith(("moe_", "topk_", "n_gr"))]:
            if key != "n_groups":
                del config[key]


def _transformers_class(arch: Arch) -> str:
    """Tests' own classes correct one of transformers'; those of `verify` have published names."""
    if arch.model in (model for _, model in own_models()):
        return arch.model.__name__
    kinds = arch.model.__mro__
    return next(k.__name__ for k in kinds if k.__module__.startswith("transformers"))


def write_with_tokenizer(arch: Arch, folder: Path) -> Path:
    """A row's checkpoint, with a byte-level vocabulary nearly as large as its embedding: converters
    cut rows that no token has, and tokenizers of some families add a token of their own."""
    write_checkpoint(arch, folder)
    letters = [chr(b) for b in range(33, 127)] + ["Ġ", *(m.replace(" ", "") for m in MERGES)]
    more = (f"{a}{b}" for a in "abcdefghijkl" for b in "0123456789")
    vocabulary = {t: n for n, t in enumerate(islice(chain(SPECIAL, letters, more), VOCAB - 3))}
    added = [
        {"id": vocabulary[t], "content": t, "special": True, "single_word": False}
        | {"lstrip": False, "rstrip": False, "normalized": False}
        for t in SPECIAL
    ]
    whole: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": [m.split() for m in MERGES],
            "unk_token": SPECIAL[0],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    # RWKV's converter looks for its own file.
    lines = (f"{b + 1} {bytes((b,))!r} 1" for b in range(VOCAB - 3))
    (folder / "rwkv_vocab_v20230424.txt").write_text("\n".join(lines) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"unk_token": "<unk>"}))
    return folder


def converted(source: Path, jobs: Sequence[tuple[Path, Path]], work: Path) -> Mapping[Path, Any]:
    """What the converter says of each (checkpoint, file to write), by file."""
    listed = work / "jobs.json"
    listed.write_text(json.dumps([[str(a), str(b)] for a, b in jobs]))
    done = subprocess.run(
        [sys.executable, str(CONVERT), str(source), str(listed)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = [json.loads(x) for x in done.stdout.splitlines() if x.startswith('{"file"')]
    assert len(found) == len(jobs), done.stderr[-3000:]
    return {Path(x["file"]): x for x in found}
