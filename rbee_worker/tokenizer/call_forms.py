"""How a chat template reads an assistant's message with tool calls.

Clients send arguments as JSON text and null where there is no text. Some templates want an object
instead and write text once more as a JSON string; some write "None" for null, others show calls
only beside it. As for contents, the form is found by rendering a word that nobody writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rbee_worker.errors import FieldError

CALL_ID = "abcdefghi"  # accepted by templates that are strict about ids

Message = dict[str, Any]
Render = Callable[[list[Message]], str | None]


@dataclass(frozen=True)
class CallForm:
    """The forms of such a message that a template reads: whether arguments are objects, and whether
    a message without text has null. A message in another form is given the first of them.

    shown: calls are shown at all.
    """

    read: tuple[tuple[bool, bool], ...] = (
        (True, True),
        (True, False),
        (False, True),
        (False, False),
    )
    shown: bool = True

    def formed(self, message: Message, content: Any) -> Message:
        """A message with tool calls in a form that the template reads. content: as it was given."""
        calls = message["tool_calls"]
        objects = not any(isinstance(c["function"].get("arguments", "{}"), str) for c in calls)
        null = content is None
        if not message.get("content") or (objects, null) not in self.read:
            fits = [form for form in self.read if form == (objects, null)]
            fits += [form for form in self.read if form[0] == objects]
            objects, null = (fits or self.read)[0]
        text = message.get("content") or (None if null else "")
        return {**message, "content": text, "tool_calls": [_formed(c, objects) for c in calls]}


def find_call_form(word: str, render: Render) -> CallForm | None:
    """The forms that a template reads; None if it refuses every one. render: the prompt for
    messages, None if the template refuses them. word: what to look for in prompts."""
    rendered: dict[tuple[bool, bool], str] = {}
    for answered in (True, False):
        for form in CallForm().read:
            text = render(_talk(word, form, answered=answered))
            if text is not None:
                rendered[form] = text
        shown = {form: text for form, text in rendered.items() if _shows(text, word)}
        if shown:
            return CallForm(_fewest_nones(_as_objects(shown)))
    return CallForm(_fewest_nones(rendered), shown=False) if rendered else None


def _as_objects(texts: Mapping[tuple[bool, bool], str]) -> dict[tuple[bool, bool], str]:
    """The forms without those in which arguments are text, if the template writes text in another
    way than the object."""
    objects = {null: text for (is_object, null), text in texts.items() if is_object}
    same = {form: text for form, text in texts.items() if text == objects.get(form[1])}
    return same or dict(texts)


def _fewest_nones(texts: Mapping[tuple[bool, bool], str]) -> tuple[tuple[bool, bool], ...]:
    """The forms in which a template does not write null as a word."""
    counts = {form: text.count("None") for form, text in texts.items()}
    return tuple(form for form, n in counts.items() if n == min(counts.values()))


def call_message(arguments: Any = None, content: str | None = "", name: str = "x") -> Message:
    """An assistant's message with one call."""
    function = {"name": name, "arguments": {} if arguments is None else arguments}
    call = {"id": CALL_ID, "type": "function", "function": function}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def call_faults(field: str, calls: Any) -> list[FieldError]:
    """What is wrong with the tool calls of one message."""
    if not isinstance(calls, list | tuple) or not calls:
        return [FieldError(field, "a list of calls", "must be a list of tool calls")]
    faults = []
    for place, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        where = f"{field}[{place}].function"
        if not isinstance(function, Mapping) or not isinstance(name, str):
            faults.append(FieldError(where, "name and arguments", "needs a name and arguments"))
        elif not isinstance(_object(function.get("arguments", "{}")), Mapping):
            message = "must be a JSON object, or its text"
            faults.append(FieldError(f"{where}.arguments", "a JSON object", message))
    return faults


def _object(arguments: Any) -> Any:
    """Arguments as an object; anything else if they are none."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return None


def _formed(call: Mapping[str, Any], objects: bool) -> Message:
    function = call["function"]
    arguments = function.get("arguments", "{}")
    if objects:
        arguments = _object(arguments)
    elif not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _talk(word: str, form: tuple[bool, bool], *, answered: bool) -> list[Message]:
    """A question and a call; answered: and the tool's answer."""
    objects, null = form
    arguments: Any = {word: word}
    if not objects:
        arguments = json.dumps(arguments)
    question = {"role": "user", "content": "x"}
    answer = {"role": "tool", "tool_call_id": CALL_ID, "name": "x", "content": "x"}
    return [question, call_message(arguments, None if null else ""), *[answer] * answered]


def _shows(text: str, word: str) -> bool:
    """Whether the arguments are in the prompt as the model writes them: neither as Python shows a
    dict, nor as JSON within a JSON string."""
    wrong = (f"{{'{word}'", f'\\"{word}\\"')
    return word in text and not any(form in text for form in wrong)
