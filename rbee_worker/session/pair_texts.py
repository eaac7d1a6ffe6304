"""How two texts become one: the template that a reranker reads a query and a document in.

Whatever a template is written in, it is turned into a text with `{instruction}`, `{query}` and
`{document}` in the places of these, once, when the model is opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from rbee_worker.checkpoint.pair_rule import GGUF_TEMPLATE, PairRule
from rbee_worker.errors import InvalidRequest, UnsupportedModel
from rbee_worker.model_info import ModelInfo, PairScore

if TYPE_CHECKING:
    from rbee_worker.checkpoint import Checkpoint
    from rbee_worker.tokenizer.chat import ChatRenderer
    from rbee_worker.tokenizer.core import Tokenizer

# What Qwen3-Reranker was trained with, from its model card.
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
MODEL_CARD = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
_YES_NO = ("yes", "no")
_SLOT = re.compile(r"\{(instruction|query|document)\}")
# Words that nobody writes, between blanks that show whether a template strips its texts.
_STANDS_FOR = {"query": "Zq7Quw2", "document": "Zq7Dow2", "instruction": "Zq7Inw2"}
_ROLES = {"instruction": "system"}
_TRIED = " \n'{}\" \\ <b> &  {{query}} é\n \n"  # what a template may write in another way


@dataclass(frozen=True)
class PairTexts:
    """plain: the template for a request without an instruction; "": the tokenizer makes one text of
    two. instructed: for one with it; "": there is no place for it. instruction: of requests that
    give none, "" for none. stripped: around which of the texts the template takes blanks off. ids:
    of the tokens that answer; (): a head scores.
    """

    plain: str
    instructed: str = ""
    instruction: str = ""
    stripped: frozenset[str] = frozenset()
    ids: tuple[int, ...] = ()

    def written(self, query: str, document: str, instruction: str | None) -> tuple[str, str, str]:
        """The prompt, what stands before the document in it, and what follows that."""
        said = self.instruction if instruction is None else instruction
        template = self.instructed if said else self.plain
        given = {"query": query, "document": document, "instruction": said}
        given |= {name: given[name].strip() for name in self.stripped}
        before, tail = template.partition("{document}")[0], template.rpartition("{document}")[2]
        return _filled(template, given), _filled(before, given), _filled(tail, given)


def _filled(template: str, given: Mapping[str, str]) -> str:
    return _SLOT.sub(lambda slot: given[slot[1]], template)


def pair_texts(
    ckpt: Checkpoint,
    rule: PairRule,
    tokenizer: Tokenizer,
    chat: ChatRenderer | None,
    *,
    draws: bool,
) -> PairTexts | None:
    """How the model reads two texts; None if its tokenizer alone makes one of them. draws: whether
    it draws tokens. Raises UnsupportedModel if it cannot be asked so."""
    if not rule.answers and not rule.template:
        return None
    ids = (rule.ids or _tokens(tokenizer)) if rule.answers and draws else ()
    made = PairTexts("", ids=ids)
    if rule.template == "model card":
        return replace(made, plain=MODEL_CARD, instructed=MODEL_CARD, instruction=INSTRUCTION)
    if rule.template == "gguf":
        assert ckpt.gguf is not None
        plain = str(ckpt.gguf.metadata[GGUF_TEMPLATE])
        _check_slots(plain, f"{GGUF_TEMPLATE} of the file")
        if plain.count(INSTRUCTION) == 1:  # else an empty one would be this one
            plain = plain.replace(INSTRUCTION, "{instruction}")
            return replace(made, plain=plain, instructed=plain, instruction=INSTRUCTION)
        return replace(made, plain=plain)
    if rule.template == "chat":
        return _of_messages(ckpt, chat, made)
    return made


def described(info: ModelInfo, text: PairTexts | None) -> ModelInfo:
    """The engine's description with what only the text side knows. Raises UnsupportedModel."""
    pairs = completed(info.purpose.pairs, text, info.vocab_size)
    purpose = msgspec.structs.replace(info.purpose, pairs=pairs)
    return msgspec.structs.replace(info, purpose=purpose)


def completed(pairs: PairScore | None, text: PairTexts | None, vocab_size: int) -> PairScore | None:
    """How two texts are scored, with the tokens that answer. Raises UnsupportedModel for tokens
    that the model's head has no rows for."""
    if text is None or pairs is None or pairs.by == "vectors":
        return pairs
    ids = text.ids if pairs.by == "yes-no" else ()
    if any(token >= vocab_size for token in ids):
        raise UnsupportedModel(
            f"the tokens that answer are {', '.join(map(str, ids))}, but the model's head has "
            f"{vocab_size} rows.",
            fix="the tokenizer and the weights belong to different models; download both again.",
        )
    return msgspec.structs.replace(pairs, ids=ids, instructed=bool(text.instructed))


def _tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    found = [tokenizer.token_id(word) for word in _YES_NO]
    lacking = [word for word, token in zip(_YES_NO, found, strict=True) if token is None]
    if lacking:
        raise UnsupportedModel(
            f"the tokenizer has no token {lacking[0]!r}, so the model cannot answer with it.",
            fix="leave out --rerank yes-no, which is for Qwen3-Reranker and models made like it.",
        )
    return tuple(token for token in found if token is not None)


def _of_messages(ckpt: Checkpoint, chat: ChatRenderer | None, made: PairTexts) -> PairTexts:
    """The texts as messages of the roles `query` and `document`, as sentence-transformers gives
    them to the chat template; a prompt is a message of the system before them."""
    if chat is None:
        raise _unreadable("the model", "it has no chat template")
    opens = ckpt.sentence.opens

    def rendered(texts: Mapping[str, str], *names: str) -> str:
        messages = [{"role": _ROLES.get(name, name), "content": texts[name]} for name in names]
        try:
            return chat.render(messages, add_generation_prompt=opens)
        except InvalidRequest as error:
            raise _unreadable("the chat template", error.message) from None

    shown = {name: f" \n{word} \n" for name, word in _STANDS_FOR.items()}
    plain, stripped = _slotted(rendered(shown, "query", "document"))
    _check_slots(plain, "the chat template")
    instructed, more = _slotted(rendered(shown, "instruction", "query", "document"))
    if "{instruction}" not in instructed:
        instructed = ""
    made = replace(made, plain=plain, instructed=instructed, stripped=stripped | more)
    query, document, instruction = (_TRIED.format(shown[name]) for name in shown)
    tried = {"query": query, "document": document, "instruction": instruction}
    same = made.written(query, document, None)[0] == rendered(tried, "query", "document")
    if instructed:
        again = made.written(query, document, instruction)[0]
        same = same and again == rendered(tried, "instruction", "query", "document")
    if not same:
        raise _unreadable("the chat template", "it changes their texts")
    said = ckpt.sentence
    return replace(made, instruction=said.prompts.get(said.prompt, "") if instructed else "")


def _check_slots(template: str, what: str) -> None:
    for name in ("query", "document"):
        if f"{{{name}}}" not in template:
            raise _unreadable(what, f"it leaves out the {name}")


def _slotted(text: str) -> tuple[str, frozenset[str]]:
    """A rendered template with slots in place of the words that stand for texts, and the names of
    those without the blanks around them."""
    stripped = set()
    for name, word in _STANDS_FOR.items():
        whole = f" \n{word} \n"
        if whole not in text and word in text:
            stripped.add(name)
        text = text.replace(whole if whole in text else word, f"{{{name}}}")
    return text, frozenset(stripped)


def _unreadable(what: str, why: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{what} cannot take a query and a document: {why[:120]}.",
        fix="download the model's files again, or use --rerank vectors.",
    )
