"""A server whose engine answers with given texts: a real tokenizer and a chat template around
scripted ids. What a request's `seed` names in `answers` is what it gets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rbee_worker.engine.messages import Submit
from rbee_worker.session.text import TextSide
from tests import tiny
from tests.server.scripted import scripted_start, text_of_checkpoint
from tests.server.served import Served

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


class Talking(Served):
    """`Served`, with a folder for the checkpoint. specials: tokens of the vocabulary that are
    special; tokens: others that are one token each. burst: tokens of a step. resumed: what follows
    where a request is submitted with some output already. by_text: the answer's number is the
    last one after a # in the prompt, not the seed."""

    def __init__(
        self,
        folder: Path,
        template: str | Mapping[str, str],
        answers: Sequence[str],
        *,
        specials: Sequence[str] = (),
        tokens: Sequence[str] = (),
        burst: int = 1,
        resumed: str = "",
        by_text: bool = False,
        **settings: Any,
    ) -> None:
        path = write(folder, template, specials, tokens)
        self.text: TextSide = text_of_checkpoint(path)
        self.resumed: list[Submit] = []

        def script(m: Submit) -> list[int]:
            seed = m.params.seed
            if by_text:
                prompt = self.text.tokenizer.decode(m.prompt_ids, skip_special=False)
                seed = int(re.findall(r"#(\d+)", prompt)[-1])
            ids = self.text.tokenizer.encode(answers[seed], add_special=False)
            return [*ids, self.text.eos[0].id]

        def open_it() -> TextSide:
            return self.text

        def go_on(m: Submit) -> list[int]:
            self.resumed.append(m)
            return [*self.text.tokenizer.encode(resumed, add_special=False), self.text.eos[0].id]

        start = scripted_start(script, open_it, burst=burst, resumed=go_on)
        super().__init__(start=start, **settings)


def write(
    folder: Path,
    template: str | Mapping[str, str],
    specials: Sequence[str] = (),
    tokens: Sequence[str] = (),
    *,
    rows: bool = False,
) -> Path:
    """The tiny model with more tokens and this chat template (or several, by name). rows: its
    matrices have a row for each of the tokens, so that it computes."""
    extra = len(specials) + len(tokens)
    tiny.write_safetensors(folder, vocab=tiny.VOCAB + extra * rows, max_position_embeddings=4096)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())
    known = [t["content"] for t in vocabulary["added_tokens"]]
    like = vocabulary["added_tokens"][0]
    start = max(t["id"] for t in vocabulary["added_tokens"]) + 1
    new = [t for t in (*specials, *tokens) if t not in known]
    vocabulary["added_tokens"] += [
        {**like, "id": start + n, "content": text, "special": text in specials}
        for n, text in enumerate(new)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    if isinstance(template, str):
        config["chat_template"] = template
    else:
        config["chat_template"] = [{"name": n, "template": t} for n, t in template.items()]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
