"""What the code of a model's authors does and none of its files says, added in the form in which
other models' files say it.

Moondream has no file of a processor and no chat template: its code resizes the picture, puts its
rows behind the first token, writes "Question:" and "Answer:", and opens every prompt. So a
checkpoint of it gets these files' contents when it is opened; what its own files say is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rbee_worker.checkpoint.checkpoint import Checkpoint
from rbee_worker.checkpoint.processor import of_tower
from rbee_worker.checkpoint.tokenizer_files import TEMPLATES

_KEY, _TEMPLATE = "tokenizer.ggml.", "tokenizer.chat_template"
_UNUSED = re.compile(r"\[PAD[0-9]+\]")  # what converters call rows that no token has
_CONTROL = 3  # GGUF's type of a special token

# The picture stands right behind the first token, whatever stands before it in its message.
_QUESTIONS = """\
{{- bos_token -}}
{%- for message in messages if message['content'] is not string -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{- '<image>' -}}{%- endfor -%}
{%- endfor -%}
{{- '\\n\\n' -}}
{%- for message in messages -%}
{%- set names = {'user': 'Question', 'assistant': 'Answer'} -%}
{%- if message['role'] not in names -%}
{{- raise_exception("Moondream's chat format has no " + message['role'] + ' messages') -}}
{%- endif -%}
{{- names[message['role']] + ': ' -}}
{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}
{{- message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text')
    | join('\\n') -}}
{%- endif -%}
{{- '\\n\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Answer:' -}}{%- endif -%}
"""


@dataclass(frozen=True)
class OwnCode:
    """kind: of the processor, for `of_tower`; side, patch: pixels of a picture's edge and of a
    patch's, unless the config says others. place: the token of a picture's rows, which the
    vocabulary lacks; template: of conversations; stops: texts before which an answer ends; note:
    tells of the template."""

    kind: str
    side: int
    patch: int
    place: str
    template: str
    stops: tuple[str, ...]
    note: str


_OWN_CODE: Mapping[str, OwnCode] = {
    "moondream1": OwnCode(
        kind="mlp",
        side=378,
        patch=14,
        place="<image>",
        template=_QUESTIONS,
        stops=("<END>",),  # the first checkpoints end their answers with these letters
        note="the files have no chat template: conversations are written as Moondream's own code "
        "does (the picture, Question:, Answer:)",
    ),
}


def completed(model: Checkpoint) -> Checkpoint:
    """`model`, with what the code of its authors does."""
    own = _OWN_CODE.get(model.arch)
    if own is None:
        return model
    vision = model.config.get("vision_config")
    said = vision if isinstance(vision, Mapping) else {}
    side, patch = said.get("image_size", own.side), said.get("patch_size", own.patch)
    whole = type(side) is int and type(patch) is int and patch > 0
    processor = model.processor
    if whole and not processor.image:  # a config that is damaged is refused with the model
        processor = of_tower(own.kind, side, (side // patch) ** 2, None)
    model = replace(model, processor=processor, turn_stops=own.stops)
    return _with_metadata(model, own) if model.gguf is not None else _with_files(model, own)


def _with_files(model: Checkpoint, own: OwnCode) -> Checkpoint:
    """A directory, with the token and the template in tokenizer_config.json."""
    config = {"image_token": own.place, **model.tokenizer_config, "add_bos_token": True}
    has = "chat_template.json" in model.files or any(
        name.startswith(f"{TEMPLATES}/") for name in model.files
    )
    if has or config.get("chat_template"):
        return replace(model, tokenizer_config=config)
    config["chat_template"] = own.template
    return replace(model, tokenizer_config=config, notes=(*model.notes, own.note))


def _with_metadata(model: Checkpoint, own: OwnCode) -> Checkpoint:
    """A GGUF file, with the same in its metadata: the token takes the place of one that converters
    give to an unused row."""
    assert model.gguf is not None
    meta = model.gguf.metadata
    values: dict[str, Any] = {f"{_KEY}add_bos_token": True}
    tokens, types = (meta.get(f"{_KEY}{name}") for name in ("tokens", "token_type"))
    if isinstance(tokens, list) and isinstance(types, list) and own.place not in tokens:
        free = (n for n, text in enumerate(tokens) if _UNUSED.fullmatch(str(text)))
        at = next(free, len(types))
        if at < len(types):
            values[f"{_KEY}tokens"] = [*tokens[:at], own.place, *tokens[at + 1 :]]
            values[f"{_KEY}token_type"] = [*types[:at], _CONTROL, *types[at + 1 :]]
    given, notes = meta.get(_TEMPLATE), model.notes
    if not isinstance(given, str) or "{" not in given:  # none, or the name of another one's
        values[_TEMPLATE], notes = own.template, (*notes, own.note)
    file = replace(model.gguf, metadata=meta.with_values(values))
    return replace(model, gguf=file, notes=notes)
