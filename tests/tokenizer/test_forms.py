"""Content reaches the prompt in the form that a template reads; against transformers."""

from __future__ import annotations

from typing import Any

import pytest

from rbee_worker.errors import InvalidRequest
from rbee_worker.tokenizer.chat import ChatRenderer
from tests.tokenizer.templates import TEMPLATES
from tests.tokenizer.test_chat import hf_with

# Ways to read parts, with no word for strings.
PARTS = {
    "a loop": "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}",
    "a loop by keys": "{% for p in m['content'] %}{{ p['text'] }}|{% endfor %}",
    "the first": "{{ m.content[0].text }}",
    "the first by key": "{{ m['content'][0]['text'] }}",
    "a filter": "{{ m.content | selectattr('type', 'equalto', 'text') "
    "| map(attribute='text') | join }}",
    "a macro": "{{ show(m.content) }}",
    "upper case": "{% for p in m.content %}{{ p.text | default('') | upper }}{% endfor %}",
}
STRINGS = {
    "as it is": "{{ m.content }}",
    "trimmed": "{{ m['content'] | trim }}",
    "joined": "{{ '# ' + m.content }}",
    "as JSON": "{{ m.content | tojson }}",
    "lower case": "{{ m.content | lower }}",
    "letters": "{% for c in m.content %}{{ c }}{% endfor %}",
    "lines": "{{ m.content.split('\\n') | join('/') }}",
}
BOTH = {
    "asks": "{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}",
    "asks the other way": "{% if m.content is iterable and m.content is not string %}"
    "{{ m.content | map(attribute='text') | join('+') }}{% else %}{{ m.content }}{% endif %}",
}
MACRO = (
    "{% macro show(c) %}{% for p in c %}{% if 'text' in p %}{{ p['text'] }}"
    "{% endif %}{% endfor %}{% endmacro %}"
)
ROLES = ("system", "user", "assistant", "tool", "ipython")


def template(**by_role: str) -> str:
    """`{role}: content` for each message; a role that is not named is written as it is."""
    cases = "".join(f"{{% elif m.role == '{r}' %}}{body}" for r, body in by_role.items())
    return (
        f"{MACRO}{{% for m in messages %}}<{{{{ m.role }}}}>"
        f"{{% if false %}}{cases}{{% else %}}{{{{ m.content }}}}{{% endif %}}\n{{% endfor %}}"
    )


def talk(parts: bool, *roles: str) -> list[dict[str, Any]]:
    """One message for each role; the texts are told apart."""
    texts = {r: f"the {r} said: '{r}' é" for r in roles}
    return [
        {"role": r, "content": [{"type": "text", "text": t}] if parts else t}
        for r, t in texts.items()
    ]


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("role", ROLES)
def test_a_template_of_parts_gets_parts(name: str, role: str) -> None:
    source = template(**{role: PARTS[name]})
    roles = list(dict.fromkeys(("user", role)))
    mixed = talk(False, *roles)
    mixed[roles.index(role)] = talk(True, role)[0]
    want = hf_with(source).apply_chat_template(mixed, tokenize=False)
    with ChatRenderer(source) as renderer:
        assert f"the {role}" in want.lower()
        assert renderer.render(talk(False, *roles)) == want
        assert renderer.render(mixed) == want
        assert renderer.unseen(mixed) == ()


@pytest.mark.parametrize("name", STRINGS)
def test_strings_stay_strings_elsewhere(name: str) -> None:
    source = template(user=STRINGS[name])
    want = hf_with(source).apply_chat_template(talk(False, "user"), tokenize=False)
    with ChatRenderer(source) as renderer:
        assert renderer.render(talk(False, "user")) == want
        assert renderer.render(talk(True, "user")) == want


@pytest.mark.parametrize("name", BOTH)
def test_a_template_that_takes_both_gets_what_was_sent(name: str) -> None:
    source = template(user=BOTH[name])
    several = [{"role": "user", "content": [{"type": "text", "text": t} for t in ("a", "b")]}]
    with ChatRenderer(source) as renderer:
        for messages in (talk(False, "user"), talk(True, "user"), several):
            want = hf_with(source).apply_chat_template(messages, tokenize=False)
            assert renderer.render(messages) == want


def test_every_role_has_its_own_form() -> None:
    """Each way to read parts beside a way to read strings."""
    for a, b in zip(PARTS.values(), STRINGS.values(), strict=True):
        source = template(system=b, user=a, assistant=b)
        roles = ("system", "user", "assistant")
        mixed = talk(False, *roles)
        mixed[1] = talk(True, "user")[0]
        want = hf_with(source).apply_chat_template(mixed, tokenize=False)
        with ChatRenderer(source) as renderer:
            assert renderer.render(talk(False, *roles)) == want


def test_a_template_that_refuses_conversations_is_asked_in_ones_it_takes() -> None:
    strict = (
        "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}"
        + template(user=PARTS["a loop"], system=PARTS["the first"])
    )
    both = ("system", "user")
    want = hf_with(strict).apply_chat_template(talk(True, *both), tokenize=False)
    with ChatRenderer(strict) as renderer:
        assert renderer.render(talk(False, *both)) == want
        with pytest.raises(InvalidRequest, match="system first"):
            renderer.render(talk(False, "user"))


def test_a_template_that_needs_arguments() -> None:
    source = "{{ need.this }}" + template(user=PARTS["a loop"])
    want = hf_with(source).apply_chat_template(
        talk(True, "user"), tokenize=False, need={"this": "x"}
    )
    with ChatRenderer(source) as renderer:
        with pytest.raises(InvalidRequest, match="needs something that these messages lack"):
            renderer.render(talk(False, "user"))
        assert renderer.render(talk(False, "user"), need={"this": "x"}) == want


def test_a_role_that_a_template_leaves_out_is_named() -> None:
    source = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    with ChatRenderer(source) as renderer:
        messages = talk(False, "system", "user")
        assert "system" not in renderer.render(messages)
        assert renderer.unseen(messages) == ("system",)
        assert renderer.unseen(talk(False, "user")) == ()


def test_callers_who_invent_roles_use_no_memory() -> None:
    with ChatRenderer(template()) as renderer:
        for n in range(100):
            renderer.render([{"role": f"r{n}", "content": "x"}])
        assert len(renderer._forms) <= 36
        assert renderer.render(talk(False, "tool", "user")).startswith("<tool>the tool said")


@pytest.mark.parametrize("name", TEMPLATES)
def test_published_templates_show_every_role_they_render(name: str) -> None:
    with ChatRenderer(TEMPLATES[name], bos_token="<s>", eos_token="</s>") as renderer:
        for role in ("user", "assistant"):
            messages = talk(False, *dict.fromkeys(("user", role)))
            assert f"the {role} said: '{role}' é" in renderer.render(messages)
