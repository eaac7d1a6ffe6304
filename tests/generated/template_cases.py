"""Chat templates, put together at random and damaged; the outside reader is transformers."""

from __future__ import annotations

import json
import random
from typing import Any

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError

from rbee_worker.errors import CheckpointError
from rbee_worker.tokenizer.chat import ChatRenderer
from rbee_worker.tokenizer.render_child import _Renderer
from tests.generated import mutate
from tests.generated.budget import within_budget
from tests.tokenizer.templates import TEMPLATES
from tests.tokenizer.test_chat import hf_with
from tests.tokenizer.test_forms import BOTH, MACRO, PARTS, STRINGS

MARK = "Sesame-4711"
TALKS: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": f"{MARK} one"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f" {MARK}\n"}],
    [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "<think>\nx\n</think>\n\nhello"},
        {"role": "user", "content": f"{MARK} 'two' é"},
    ],
)
ROLES = ("system", "user", "assistant")
CONTENTS = (*PARTS.values(), *STRINGS.values(), *BOTH.values())
HEADS = (
    "",
    "{{ bos_token }}",
    "{% set ns = namespace(n=0) %}",
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}",
    "{% if messages|length > 2 %}{{ raise_exception('too long') }}{% endif %}",
    "{%- set first = messages[0] -%}",
    "{{ messages | map(attribute='role') | list | tojson }}",
)
ENDS = (
    "",
    "{% if add_generation_prompt %}<assistant>{% endif %}",
    "{{ eos_token }}",
    "{{ tools | default('none', true) }}",
    "{{ undefined_name }}",
    "{{ unk_token is defined }}",
)
AROUND = (
    "{}",
    "<|im_start|>{{{{ m.role }}}}\n{}<|im_end|>\n",
    "{{%- if loop.first %}}>{{% endif %}}{}",
)


class InProcess(ChatRenderer):
    """Renders without the child: its code, none of its limits, and so in a millisecond."""

    def __init__(self, template: str) -> None:
        super().__init__(template, special_tokens={"bos_token": "<s>", "eos_token": "</s>"})
        self._renderer = _Renderer(1 << 20)
        self._first = True

    def _ask(self, body: str) -> dict[str, str]:
        request = json.loads(body)
        if self._first:
            request["template"] = self._template
            self._first = False
        return self._renderer.answer(request)


def made(rng: random.Random) -> str:
    """One case's template."""
    if rng.random() < 0.15:
        source = rng.choice(sorted(TEMPLATES.values()))
    else:
        bodies = {role: rng.choice(CONTENTS) for role in ROLES}
        cases = "".join(f"{{% elif m.role == '{r}' %}}{b}" for r, b in bodies.items())
        body = rng.choice(AROUND).format("{% if false %}" + cases + "{% endif %}")
        loop = f"{{% for m in messages %}}{body}{{% endfor %}}"
        source = MACRO + rng.choice(HEADS) + loop + rng.choice(ENDS)
    if rng.random() < 0.25:
        data = mutate.damaged(rng, source.encode())
        source = data.decode(errors="replace")
    return source


def check(number: int, _: Any) -> str:
    """Run case `number`: "refused", "alone" where transformers refuses, or "equal"."""
    rng = random.Random(f"template {number}")
    source, talk = made(rng), rng.choice(TALKS)
    options = {"add_generation_prompt": rng.random() < 0.5}
    renderer = InProcess(source)
    outcome = within_budget(lambda: renderer.render(talk, **options))
    if outcome.error is not None:
        assert MARK not in str(outcome.error)
    wants = [_rendered(source, messages, options) for messages in forms(talk)]
    if outcome.value is None:
        forbidden = isinstance(outcome.error, CheckpointError)
        assert forbidden or not isinstance(wants[0], str) or MARK not in wants[0], outcome.error
        return "refused"
    if not isinstance(wants[0], str) and outcome.value not in wants:
        return "alone"
    assert outcome.value in wants, f"{outcome.value[:80]!r}"
    if any(isinstance(want, str) and _shown(want) for want in wants):
        assert _shown(outcome.value), "what the user wrote is not in the prompt"
    return "equal"


def forms(talk: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The conversation with contents as strings, and with those of every set of roles as parts."""
    out = []
    for which in range(1 << len(ROLES)):
        parts = {r for n, r in enumerate(ROLES) if which >> n & 1}
        out.append(
            [
                {**m, "content": [{"type": "text", "text": m["content"]}]}
                if m["role"] in parts
                else m
                for m in talk
            ]
        )
    return out


def _shown(text: str) -> bool:
    return MARK.lower() in text.lower() and '"type"' not in text and "'type'" not in text


def _rendered(source: str, talk: list[dict[str, Any]], options: dict[str, Any]) -> str | Exception:
    hf = hf_with(source)
    try:
        text: str = hf.apply_chat_template(talk, tokenize=False, **options)
    except (TemplateError, SecurityError, Exception) as error:
        return error
    return text
