"""docs/architectures.md, made from the tables of the package and of the tests.

python -m tests.archs.page           measure every row (a minute), and write the page
python -m tests.archs.page --keep    write it with the errors that it has, measure those it lacks
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from rbee_worker.checkpoint.names import DIALECTS, GGUF_ARCHITECTURES
from rbee_worker.models import ARCHITECTURES, ENCODERS, PAIRS, SEEING, SPEAKING
from rbee_worker.verify.oracle import own_models
from tests import mmproj, pairs, seeing, speaking
from tests.archs import ARCHS, Arch
from tests.archs.families import FAMILIES, Family
from tests.encoders import ROWS
from tests.published import PUBLISHED

PAGE = Path(__file__).parents[2] / "docs/architectures.md"
COMMAND = "python -m tests.archs.page"
UNKNOWN = "not measured"
KINDS = ("safetensors", "GGUF")
Errors = Mapping[tuple[str, str], str]  # (model_type, kind of file) -> as the page has it

_HEAD = f"""# Architectures

Made by `{COMMAND}` from [tests/archs](../tests/archs) and the tables of the package; not to be
edited.

What each family is, and whether it works here. `works` means that rows of
[tests/archs](../tests/archs) hold it to transformers' logits in float32, from safetensors and
from GGUF (encoders: [below](#encoders)); `planned` means that loading one is refused with exit
code 3 and a message that names the supported ones. [adding-a-model.md](adding-a-model.md) says how
one is added.

Columns: the Hugging Face `model_type`; `general.architecture` of GGUF files and how rotary pairs
lie in them (`pairs`: neighbours, q and k permuted by the converter for the llama family;
`halves`: half-split); traits. Where a column has `-`, there is no such file or no such type. End
tokens and chat templates are always read from the files, never from a table.

| family | `model_type` | GGUF | rotary | traits | state |
|---|---|---|---|---|---|
"""

_ENCODERS = """
# Encoders

Encoders give vectors or class scores, never text. For each `model_type`: the classes of
transformers that are the oracle, and the configs that are compared
([tests/encoders.py](../tests/encoders.py)); `gemma3_text` is one where
`use_bidirectional_attention` is true. On `cpu` and `reference`, the tests allow 1e-5 (norm
of the difference over norm, in float32) for vectors pooled in each way and for class scores, of one
text and of two; a text has the same bits alone and in any batch. GGUF: the configs whose GGUF files
give what the safetensors files give, bit for bit.

| `model_type` | oracle | configs | GGUF |
|---|---|---|---|
"""

_CLASSES = """
# Decoders with heads for classes

`score.weight` in place of the head that draws tokens, for any decoder above without pictures or
sound: transformers' `*ForSequenceClassification`, as rerankers and reward models are published; in
GGUF files, `cls.output.weight` of `qwen3`.
[tests/test_decoder_classes.py](../tests/test_decoder_classes.py) holds scores to transformers' in
float32 on `cpu` and `reference`;
[tests/server/test_rerankers.py](../tests/server/test_rerankers.py) does it for Qwen3-Reranker.
Heads for the class of each token, and of decoders whose tokens see later ones, are refused.
"""

_PAIRS = """
# Encoders with decoders

An encoder reads the prompt once, and its keys and values are kept beside the answer's (`inspect`
plans both). The tests ([tests/engine/test_pairs.py](../tests/engine/test_pairs.py)) hold the whole
engine, on `cpu` and `reference`, to transformers' log-probabilities in float32 (5e-5), and to the
same bits alone, in any batch, after a preemption and with drafts; on `cuda` to its bounds. `verify`
compares both halves layer by layer. They give no vectors.

| `model_type` | oracle | configs |
|---|---|---|
"""

_SEEING = """
# Models that read pictures

A tower reads tiles of pictures, and its rows stand in the place of tokens; without pictures the
model is its text model alone. The tests
([tests/engine/test_pictures.py](../tests/engine/test_pictures.py)) hold the whole engine, on
`cpu` and `reference`, to transformers' log-probabilities in float32 (5e-5) of prompts with one
and several pictures and tiles, and to the same bits in steps of any size, in any batch, after a
preemption and with drafts. GGUF: the projector of llama.cpp's mmproj files, which are read
where they lie beside the model or are named by `--mmproj`. `verify` compares the features of a
picture, and the text model layer by layer. On `cuda` models are held to its bounds.

| `model_type` | oracle | configs | mmproj |
|---|---|---|---|
"""

_SPEAKING = """
# Models that speak

A first stage draws codes of sound in the engine; what makes sound of them runs beside it
([speech.md](speech.md)). The tests
([tests/engine/test_speaking.py](../tests/engine/test_speaking.py),
[tests/speech](../tests/speech)) hold the whole engine, on `cpu` and `reference`, to a float64
reference written from the authors' description (logits of both lanes 1e-5), and to the same bits
in steps of any size, in any batch and after a preemption; the second stage to such a reference
(1e-5), the speaker encoder to torch's LSTM, EnCodec's decoder to transformers' (1e-5). GGUF:
candle's kind of file, with the same tensors. On `cuda` the tokens are held to the same reference.
`verify` does not compare it.

| `model_type` | oracle | configs |
|---|---|---|
"""

_PROOF = """
# What holds them

For each `model_type`: the class that is the oracle, with tiny random weights in float32
(transformers', or where it has none, one written from the paper and held to the authors' own
package); the configs that are compared, which differ in the optional traits; the largest error of
the logits of 70 tokens (norm of the difference over norm) among them, by the file they were read
from; and the published configs whose parameters are counted
([tests/published](../tests/published)). The tests allow 1e-4, of every layer alone as well.

The errors are of one run on one machine. Other processors round otherwise, so that the test that
finds this page stale compares everything but their digits, and those with the bound; the bound is
what `tests/test_verify_archs.py` measures anew each time.

| `model_type` | oracle | configs | safetensors | GGUF | counted |
|---|---|---|---|---|---|
"""


def page(errors: Errors) -> str:
    """The whole page."""
    families = "".join(_family(f) for f in FAMILIES)
    encoders = "".join(map(_encoder, dict.fromkeys(row.config().model_type for row in ROWS)))
    proofs = "".join(_proof(m, errors) for m in ARCHITECTURES)
    both = "".join(map(_pair, PAIRS))
    eyes = "".join(map(_seeing, dict.fromkeys(row.type for row in seeing.ROWS)))
    voices = "".join(map(_speaking, SPEAKING))
    tables = (
        families
        + _ENCODERS
        + encoders
        + _CLASSES
        + _PAIRS
        + both
        + _SEEING
        + eyes
        + _SPEAKING
        + voices
    )
    return _HEAD + tables + _PROOF + proofs


def works(family: Family) -> bool:
    """Can every type of it be loaded?"""
    return bool(family.types) and set(family.types) <= {
        *ARCHITECTURES,
        *ENCODERS,
        *PAIRS,
        *SEEING,
        *SPEAKING,
        *DIALECTS,
    }


def problems() -> list[str]:
    """What the tables lack or contradict, and what is to be done."""
    named = {t for f in FAMILIES for t in f.types}
    told = [
        f"tests/archs/families.py: add to FAMILIES a Family with types=({m!r},)"
        for m in (*ARCHITECTURES, *ENCODERS, *PAIRS, *SEEING, *SPEAKING)
        if m not in named
    ]
    told += [
        f"tests/archs: add a row to ARCHS whose config has the model_type {m!r}"
        for m in ARCHITECTURES
        if not rows_of(m)
    ]
    told += [
        f"rbee_worker/models/__init__.py: {m!r} has no title: say what people call its models"
        for m, row in ARCHITECTURES.items()
        if row.title == m
    ]
    for family in FAMILIES:
        said = set(re.split(r", ", family.gguf)) - {"none"}
        if works(family) and not said <= set(GGUF_ARCHITECTURES):
            told.append(
                f"tests/archs/families.py: {family.name}: gguf={family.gguf!r} is not in "
                "GGUF_ARCHITECTURES of rbee_worker/checkpoint/names; say none where no file is read"
            )
        if any(old not in DIALECTS for old in family.old):
            told.append(f"tests/archs/families.py: {family.name}: {family.old} are no dialects")
    return told


def rows_of(model_type: str) -> list[Arch]:
    """The tiny configs of a type."""
    return [a for a in ARCHS if type_of(a) == model_type]


@cache
def type_of(arch: Arch) -> str:
    """HF's `model_type` of a row."""
    return str(arch.config().model_type)


def written_errors(text: str) -> dict[tuple[str, str], str]:
    """The errors that a page has."""
    found = {}
    for line in text.partition(_PROOF)[2].splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        found |= {(cells[0].strip("`"), kind): cells[3 + n] for n, kind in enumerate(KINDS)}
    return found


def measure(known: Errors) -> dict[tuple[str, str], str]:
    """The largest error of the logits of all rows of a type, by the kind of file; `known` ones are
    kept."""
    from tests.archs.measure import measured

    worst: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for arch in (a for a in ARCHS if not {(type_of(a), k) for k in KINDS} & {*known}):
            for kind, found in measured(arch, Path(folder)).items():
                key = (type_of(arch), kind)
                worst[key] = max(worst.get(key, 0.0), found.logits.error)
    return {**known, **{key: f"{value:.0e}" for key, value in worst.items()}}


def _family(f: Family) -> str:
    types = ", ".join(f"`{t}`" for t in f.types) or "-"
    if f.old:
        types = f"as {', '.join(f'`{t}`' for t in f.old)}: read as {f.types[0]}"
    state = "works" if works(f) else "planned"
    return f"| {f.name} | {types} | {f.gguf} | {f.rotary} | {f.traits} | {state} |\n"


def _encoder(model_type: str) -> str:
    rows = [row for row in ROWS if row.config().model_type == model_type]
    oracles = ", ".join(sorted({row.model.__name__ for row in rows}))
    ids = ", ".join(row.id for row in rows)
    files = ", ".join(row.id for row in rows if row.gguf is not None) or "-"
    return f"| `{model_type}` | {oracles} | {ids} | {files} |\n"


def _pair(model_type: str) -> str:
    rows = [row for row in pairs.ROWS if row.type == model_type]
    oracles = ", ".join(sorted({type(pairs.oracle(row.id)).__name__ for row in rows}))
    return f"| `{model_type}` | {oracles} | {', '.join(row.id for row in rows)} |\n"


def _seeing(model_type: str) -> str:
    rows = [row for row in seeing.ROWS if row.type == model_type]
    named = {row.oracle or type(seeing.oracle(row.id)).__name__ for row in rows}
    oracles = ", ".join(sorted(named))
    ids = ", ".join(row.id for row in rows)
    return f"| `{model_type}` | {oracles} | {ids} | {mmproj.KINDS[rows[0].id]} |\n"


def _speaking(model_type: str) -> str:
    return f"| `{model_type}` | float64, from the description | {', '.join(speaking.SHAPES)} |\n"


def _proof(model_type: str, errors: Errors) -> str:
    rows = rows_of(model_type)
    oracles = ", ".join(sorted({_oracle(a) for a in rows}))
    ids = ", ".join(a.id for a in rows)
    files = {"safetensors": bool(rows), "GGUF": any(a.gguf_arch is not None for a in rows)}
    cells = [errors.get((model_type, k), UNKNOWN) if files[k] else "-" for k in KINDS]
    names = [p.name for p in PUBLISHED if p.model_type == model_type and p.stated]
    counted = ", ".join(name.partition("/")[2] for name in names) or "-"
    return f"| `{model_type}` | {oracles} | {ids} | {cells[0]} | {cells[1]} | {counted} |\n"


def _oracle(arch: Arch) -> str:
    """HF's class, or one of `verify` that transformers lacks; a test's own corrects HF's
    (rbee_worker/verify/corrected.py)."""
    if arch.model.__module__.startswith("transformers"):
        return arch.model.__name__
    if arch.model in (model for _, model in own_models()):
        return f"{arch.model.__name__}, from the paper"
    theirs = next(c for c in arch.model.__mro__ if c.__module__.startswith("transformers."))
    return f"{theirs.__name__}, corrected"


def main() -> None:
    """Write the page."""
    told = problems()
    if told:
        sys.exit("\n".join(told))
    known = written_errors(PAGE.read_text()) if "--keep" in sys.argv[1:] else {}
    PAGE.write_text(page(measure({k: e for k, e in known.items() if e != UNKNOWN})))


if __name__ == "__main__":
    main()
