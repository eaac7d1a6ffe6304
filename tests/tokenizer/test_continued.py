"""A conversation whose last message goes on: to the character what transformers makes of it."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from rbee_worker.errors import InvalidRequest
from rbee_worker.tokenizer.chat import ChatRenderer
from rbee_worker.tokenizer.continued import continued
from tests.tokenizer.templates import TEMPLATES

ASK = {"role": "user", "content": "What is the capital of France?"}
ENDINGS = [
    "The capital",
    " The capital of France is ",
    "The capital\n\n",
    "Paris <|im_end|> Paris",
    "Paris",
    'a "quoted" {{ word }}',
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_equals_transformers(name: str) -> None:
    backend = Backend(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>"))
    hf = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        chat_template=TEMPLATES[name],
    )
    with ChatRenderer(TEMPLATES[name], bos_token="<s>", eos_token="</s>") as ours:
        for text in ENDINGS:
            messages: list[dict[str, Any]] = [ASK, {"role": "assistant", "content": text}]
            want = hf.apply_chat_template(messages, tokenize=False, continue_final_message=True)
            assert continued(ours, messages, {}) == want
            assert messages[-1]["content"] == text


def test_of_parts_the_last_one_goes_on() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    with ChatRenderer("{% for m in messages %}[{{ m.content }}]{% endfor %}") as chat:
        last = {"role": "assistant", "content": parts}
        assert continued(chat, [ASK, last], {}) == f"[{ASK['content']}][one\ntwo"
        empty = {"role": "assistant", "content": None}
        assert continued(chat, [ASK, empty], {}) == f"[{ASK['content']}]["


def test_a_template_that_leaves_the_message_out_is_refused() -> None:
    with ChatRenderer("{{ messages[0].content }}") as chat:
        with pytest.raises(InvalidRequest) as caught:
            continued(chat, [ASK, {"role": "assistant", "content": "x"}], {})
        assert [e.field for e in caught.value.errors] == ["continue_final_message"]
