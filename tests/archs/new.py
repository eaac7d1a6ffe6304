"""Starts a new family: `python -m tests.archs.new MODEL_TYPE`, or `make new-model NAME=MODEL_TYPE`.

Writes the family's file, in Llama's shape and with the config keys and defaults of transformers'
class, and a file of tiny configs; adds the rows of tables that follow from the name alone; and
prints its tensors and every other place that a family has, in order. A place left out fails a test
that names it.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from rbee_worker.models import ARCHITECTURES
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.inert_keys import INERT
from tests.archs.base import Arch, configured

ROOT = Path(__file__).parents[2]
MODELS, ARCHS = ROOT / "rbee_worker/models", ROOT / "tests/archs"
TABLE, GROUPS = MODELS / "__init__.py", ARCHS / "__init__.py"

# Every place a family has, in the order in which docs/adding-a-model.md goes through them.
PLACES: tuple[tuple[str, str], ...] = (
    ("rbee_worker/models/", "its file: config keys, and the block that they make"),
    ("rbee_worker/models/__init__.py", "its row: model_type, config, build, title"),
    ("rbee_worker/checkpoint/names/", "its GGUF files, if llama.cpp has any: keys and tensors"),
    ("rbee_worker/verify/regrouped.py", "only where a GGUF file groups rows otherwise than HF"),
    ("rbee_worker/verify/gathered.py", "only where it lacks config keys that HF's class needs"),
    ("tests/archs/", "at least two tiny configs that differ in every optional trait"),
    ("tests/archs/families.py", "its line of docs/architectures.md"),
    ("tests/published/", "a published config.json and its number of parameters"),
    ("tests/tokenizer/formats.py", "the chat format that its models speak"),
    ("benchmarks/family_shapes.py", "what differs in a model of 300 million parameters"),
    ("README.md", "its line of the table of models"),
    ("docs/architectures.md", "made by `python -m tests.archs.page`"),
    ("CHANGELOG.md", "a line"),
)
COMMANDS = """\
  python -m pytest -q tests/test_defaults.py tests/test_archs.py tests/test_verify_archs.py \\
    -k {name}
  python -m pytest -q tests/test_docs.py tests/test_published.py tests/test_refused_configs.py \\
    tests/test_config_keys.py tests/checkpoint/test_absent_keys.py tests/tokenizer tests/benchmarks
  python -m pytest -q -m slow tests/test_llamacpp_converter.py -k {name}
  python -m pytest -q -m kernels tests/ops/cpu/test_model.py -k "rows and {name}"
"""


def started(model_type: str) -> list[str]:
    """Write what follows from the name. Returns what was written. Raises SystemExit."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    if model_type in ARCHITECTURES:
        raise SystemExit(f"{model_type} is there: {ARCHITECTURES[model_type].build_name}")
    if model_type not in CONFIG_MAPPING:
        raise SystemExit(f"the installed transformers has no model_type {model_type!r} to go by")
    kind = CONFIG_MAPPING[model_type]
    oracle = MODEL_FOR_CAUSAL_LM_MAPPING[kind].__name__
    family, tiny = MODELS / f"{model_type}.py", ARCHS / f"{model_type}.py"
    for path in (family, tiny):
        if path.exists():
            raise SystemExit(f"{path.relative_to(ROOT)} is there already")
    family.write_text(family_file(model_type, kind))
    tiny.write_text(tiny_file(model_type, kind, oracle))
    row = f'    "{model_type}": Architecture(\n'
    row += f'        "{model_type}.Config", "{model_type}.build", "{model_type}"\n    ),\n'
    _insert(TABLE, "}\n\n\ndef architecture(", row)
    _imported(model_type)
    _insert(GROUPS, ")\nARCHS: ", f"    {model_type},\n")
    return [str(p.relative_to(ROOT)) for p in (family, tiny, TABLE, GROUPS)]


def _imported(module: str) -> None:
    """Among the modules that `tests.archs` imports, in order."""
    before, start, rest = GROUPS.read_text().partition("from tests.archs import (\n")
    names, end, after = rest.partition(")\n")
    lines = sorted([*names.splitlines(), f"    {module},"])
    GROUPS.write_text(before + start + "\n".join(lines) + "\n" + end + after)


def _insert(path: Path, before: str, text: str) -> None:
    whole = path.read_text()
    assert whole.count(before) == 1, f"{path}: {before!r}"
    path.write_text(whole.replace(before, text + before))


def fields_of(kind: type[Any]) -> list[tuple[str, str, Any]]:
    """(name, type, default) of the keys that a `Config` on top of `DecoderConfig` must have: those
    that it lacks or has with another default. Ids of tokens are none: their place is `INERT`."""
    shared = {f.name: f for f in dataclasses.fields(DecoderConfig)}
    fresh = kind()
    found = []
    for f in dataclasses.fields(kind):
        if f.name in INERT or f.name == "rope_parameters" or f.name in _base_fields():
            continue
        if f.name.endswith("_token_id"):
            continue
        default = f.default if f.default is not dataclasses.MISSING else None
        same = f.name in shared and shared[f.name].default in (default, dataclasses.MISSING)
        if not same:
            found.append((f.name, _written(f.type), default))
    rotary = fresh.to_dict().get("rope_parameters") or {}
    for name, usual in (("rope_theta", 10000.0), ("partial_rotary_factor", 1.0)):
        if rotary.get(name, usual) != usual:
            found.append((name, "float", float(rotary[name])))
    return found


def _base_fields() -> set[str]:
    from transformers import PretrainedConfig

    return {f.name for f in dataclasses.fields(PretrainedConfig)}


def _written(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return text.replace("float | int", "float").replace("int | float", "float")


def family_file(model_type: str, kind: type[Any]) -> str:
    """A family in Llama's shape with the keys of transformers' config class."""
    none = "    # None: a row of the table with llama.Config and llama.build is enough.\n"
    keys = "".join(f"    {n}: {t} = {d!r}\n" for n, t, d in fields_of(kind)) or none
    return f'''"""Who made it, when, and what differs from Llama.

model_type: {model_type} (authors year: what sets it apart).
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.models import parts, prenorm
from rbee_worker.models.base import Decoder
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(prenorm.Config):
    """Its own keys."""

{keys}

def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    return prenorm.build(c, w, lambda at, layer: parts.gated_mlp(at.sub("mlp"), c))
'''


def tiny_file(model_type: str, kind: type[Any], oracle: str) -> str:
    """Two rows of the table of tiny configs, from transformers and as a GGUF file."""
    name = gguf_name(model_type)
    arch = f"gguf.MODEL_ARCH.{name}" if name else "None"
    imported = "import gguf\n" if name else ""
    # Some classes cannot do without a width of heads.
    wide = any(f.name == "head_dim" for f in dataclasses.fields(kind))
    one, other = (", head_dim=32", "head_dim=16, ") if wide else ("", "")
    return f'''"""What sets {model_type} apart."""

from __future__ import annotations

{imported}import transformers

from tests.archs.base import Arch, configured

M, C = transformers.{oracle}, transformers.{kind.__name__}
A = {arch}

ARCHS: tuple[Arch, ...] = (
    Arch("{model_type}", M, configured(C{one}), A),
    Arch("{model_type}-tied", M, configured(C, {other}tie_word_embeddings=True), A),
)
'''


def gguf_name(model_type: str) -> str | None:
    """The member of gguf.MODEL_ARCH that is called like a `model_type`: but for underscores, or
    with some of its words, if they are at least two."""
    import gguf

    names, words = list(gguf.MODEL_ARCH.__members__), model_type.upper().split("_")
    same = [n for n in names if n.replace("_", "") == "".join(words)]
    some = [n for n in names if "_" in n and {*n.split("_")} <= {*words}]
    return next(iter(same + sorted(some, key=len, reverse=True)), None)


def tensors_of(arch: Arch) -> list[tuple[str, str, str]]:
    """The tensors of a tiny model, those of layers once: ("+" where Llama has no such tensor, the
    name that transformers has, that of GGUF files); then those that only Llama has, with "-"."""
    import gguf
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = arch.config()
    with torch.device("meta"):
        names = arch.model(config).state_dict()
        llama = [_anywhere(n) for n in LlamaForCausalLM(configured(LlamaConfig)()).state_dict()]
    count, known = config.num_hidden_layers, None
    if arch.gguf_arch is not None:
        known = gguf.get_tensor_name_map(arch.gguf_arch, count)
    found: dict[str, tuple[str, str, str]] = {}
    for name in names:
        here, (stem, _, suffix) = _anywhere(name), name.rpartition(".")
        other = known.get_name(stem) if known else None
        named = f"{_anywhere(other)}.{suffix}" if other else "?"
        found.setdefault(here, (" " if here in llama else "+", here, named))
    lacking = [("-", name, "") for name in dict.fromkeys(llama) if name not in found]
    return [*found.values(), *lacking]


def _anywhere(name: str) -> str:
    """A tensor's name without the number of its layer, or of its expert."""
    return re.sub(r"\.\d+(?=\.|$)", ".{}", name)


def main(model_type: str) -> None:
    """Start `model_type` and say what is left."""
    written = started(model_type)
    sys.stdout.write(f"written: {', '.join(written)}\n\nEvery place, in order:\n")
    for place, what in PLACES:
        sys.stdout.write(f"  {place:34} {what}\n")
    sys.stdout.write("\nIts tensors (+: not in Llama, -: only there), and those of GGUF files:\n")
    for mark, name, other in tensors_of(import_module(f"tests.archs.{model_type}").ARCHS[0]):
        sys.stdout.write(f"{mark} {name:60} {other}\n")
    sys.stdout.write("\nWhat is left and what is wrong:\n" + COMMANDS.format(name=model_type))


if __name__ == "__main__":
    main(*sys.argv[1:])
