"""What a model's files and --rerank say of scoring two texts together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rbee_worker.checkpoint.hf_cache import repository_of
from rbee_worker.model_info import ScoreActivation

if TYPE_CHECKING:
    from rbee_worker.checkpoint.checkpoint import Checkpoint

Asked = Literal["auto", "vectors", "yes-no"]
# Published as models that generate, without a file that says more: only their card does.
_PUBLISHED = re.compile(r"Qwen/Qwen3-Reranker-\d+(\.\d+)?B")
GGUF_TEMPLATE = "tokenizer.chat_template.rerank"


@dataclass(frozen=True)
class PairRule:
    """answers: the model is asked, and answers yes or no. ids: of these two tokens, or of the one
    that counts; (): those named yes and no. template: see `PairScore`. origin: what says so; "":
    nothing does. activation: what the score goes through."""

    answers: bool = False
    ids: tuple[int, ...] = ()
    template: Literal["", "chat", "gguf", "model card"] = ""
    origin: str = ""
    activation: ScoreActivation = "sigmoid"


def pair_rule(ckpt: Checkpoint, asked: Asked) -> PairRule:
    """The rule for a checkpoint. asked: --rerank."""
    said = ckpt.sentence
    if asked == "vectors":
        return PairRule()
    template: Literal["", "chat", "gguf", "model card"] = ""
    if said.pairs and said.messages:
        template = "chat"
    elif ckpt.gguf is not None and isinstance(ckpt.gguf.metadata.get(GGUF_TEMPLATE), str):
        template = "gguf"
    bend = said.activation or "sigmoid"
    if asked == "yes-no":
        return PairRule(True, said.answers, template or "model card", "--rerank", bend)
    if said.answers:
        return PairRule(True, said.answers, template, said.answers_origin, bend)
    if ckpt.gguf is None and not said.pairs and (name := _published(ckpt.path)):
        return PairRule(True, (), "model card", f"the name {name}")
    origins = {"chat": "sentence_bert_config.json", "gguf": f"gguf:{GGUF_TEMPLATE}"}
    return PairRule(template=template, origin=origins.get(template, ""))


def _published(path: Path) -> str:
    """The name of a published reranker whose files say nothing of it; "" for any other model."""
    name = repository_of(path)
    return name if _PUBLISHED.fullmatch(name) else ""
