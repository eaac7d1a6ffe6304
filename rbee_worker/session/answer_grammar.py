"""The grammar of a conversation's answer: reasoning first, where the model reasons; then tool calls
that must be made, or an answer that must have a form, or either of them.

A request's own constraint holds for its answer, not for the reasoning before it. The parts are
written in llguidance's dialect of Lark (`constraints/grammar.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from rbee_worker.answer.kinds import Channels, Format, Thinking, Tools, Writes
from rbee_worker.constraints.grammar import grammar_of
from rbee_worker.constraints.schema import check_schema
from rbee_worker.constraints.unheld import Unheld
from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.session.reading import Reading
from rbee_worker.types import ChatOptions, Constraint, Place, Request, Resolved

if TYPE_CHECKING:
    from rbee_worker.tokenizer.core import Tokenizer

ANY_OBJECT: dict[str, Any] = {"type": "object"}
# Keywords of an object's schema that say what its members are, where each is written on its own.
_OF_MEMBERS = ("type", "properties", "required", "additionalProperties", "$defs", "definitions")
_NOTES = ("title", "description", "$schema", "$id", "examples", "default", "$comment", "deprecated")
_PLAIN = {"type", "title", "description", "examples", "default", "$comment", "deprecated"}


class Held(NamedTuple):
    """What the whole answer must be, the request's field that wants it, and the constraints that it
    was put together from, with their fields."""

    constraint: Constraint | None
    field: str
    parts: tuple[tuple[str, Constraint], ...] = ()


def held_answer(
    request: Request, resolved: Resolved, reading: Reading | None, tokenizer: Tokenizer
) -> Held:
    """What the whole answer must be. Raises InvalidRequest if that cannot be said for this model's
    format."""
    own, field = resolved.params.constraint, resolved.constraint_field
    chat = request.chat
    must = chat.tool_choice == "required" or isinstance(chat.tool_choice, dict)
    strict = any(tool["function"].get("strict") for tool in chat.offered)
    if reading is None or not (own or must or strict):
        return Held(own, field)
    if own is not None and must:
        message = "cannot be combined with a tool that must be called"
        raise InvalidRequest([FieldError(field, "without tool_choice", message)])
    made = _Grammar(reading.form, tokenizer)
    made.lead(reading.place)
    if own is not None:
        made.own(own, field, beside_calls=bool(chat.offered))
    if chat.offered:
        made.calls(chat, talk=own is None and not must)
    if must:
        made.start("calls")
    elif own is not None:
        made.start("(calls | answer)" if chat.offered else "answer")
    field = field or ("tool_choice" if must else "tools")
    return Held(Constraint(kind="lark", text=made.text), field, tuple(made.parts))


class _Grammar:
    """The rules of one answer, added one after another."""

    def __init__(self, form: Format, tokenizer: Tokenizer) -> None:
        self._form = form
        names = {tokenizer.token_text(i): i for i in tokenizer.special_ids}
        self._specials = {name: i for name, i in names.items() if name}
        self._split = re.compile("|".join(map(re.escape, self._specials)) or "(?!)")
        self._rules: list[str] = []
        self.parts: list[tuple[str, Constraint]] = []
        self._lead = ""

    @property
    def text(self) -> str:
        return "\n".join(self._rules)

    def start(self, rule: str) -> None:
        """The answer is `rule`, after the reasoning."""
        self._rules.insert(0, f"start: {self._lead}{rule}")

    # ---- reasoning

    def lead(self, place: Place) -> None:
        """What comes before the answer proper."""
        if place == "text":
            return
        if self._form.channels is not None:
            self._lead_of_channels(self._form.channels, place)
        elif self._form.thinking is not None:
            self._lead_of_marks(self._form.thinking, place)

    def _lead_of_marks(self, thinking: Thinking, place: Place) -> None:
        rest = f"{self._up_to('THOUGHT', thinking.closes)} GAP?"
        self._rules += [f"rest: {rest}", r"GAP: /[ \t\n]{1,8}/"]
        if place == "reasoning":
            self._lead = "rest "
        else:
            self._rules.append(f"lead: {self._literal(thinking.opens)} rest")
            self._lead = "lead? "

    def _lead_of_channels(self, channels: Channels, place: Place) -> None:
        again = f"{channels.start}assistant"
        rest = f"TEXT? {self._literal(channels.ends[0] + again)}"
        head = self._literal(f"{channels.channel}{channels.reasoning[0]}{channels.message}")
        self._rules += [f"rest: {rest}", f"lead: {head} rest", "TEXT: /(?s:.+)/"]
        self._lead = "rest " if place == "reasoning" else "lead? "

    # ---- the request's own constraint

    def own(self, constraint: Constraint, field: str, *, beside_calls: bool) -> None:
        """The rule `answer`, from a constraint of the request."""
        self.parts.append((field, constraint))
        if constraint.kind in ("gbnf", "lark") and (self._lead or beside_calls):
            message = (
                "a grammar of its own cannot be combined with tools or with reasoning: send no "
                "tools and switch reasoning off"
            )
            raise InvalidRequest([FieldError(field, "a JSON schema, regex or choice", message)])
        try:
            if constraint.kind == "json_schema":
                schema = json.loads(constraint.text)
                check_schema(schema)
                grammar = f"start: {_json(schema)}"
            else:
                grammar = grammar_of(constraint)
        except Unheld as unheld:
            raise _refusal(field, unheld) from None
        rules = [line for line in grammar.splitlines() if not line.startswith("%llguidance")]
        head = ""
        if self._form.channels is not None:
            channels = self._form.channels
            head = self._literal(f"{channels.channel}final{channels.message}") + " "
        first = rules[0].removeprefix("start:")
        self._rules += [f"answer: {head}{first}", *rules[1:]]

    # ---- tool calls

    def calls(self, chat: ChatOptions, *, talk: bool = False) -> None:
        """The rule `calls`: one or several calls of the tools that may be called. talk: the whole
        answer, in which there may be text too."""
        tools = self._form.tools
        writes = None if tools is None else tools.writes
        if tools is None or writes is None:
            name = "this model" if tools is None else tools.name
            raise _unconstrained(chat, f"calls in the format of {name} cannot be constrained")
        named = isinstance(chat.tool_choice, dict)
        several = writes.several and chat.parallel_tool_calls and not named
        between = self._literal(writes.between)
        end = self._literal(writes.end)
        if not talk or self._form.channels is not None:
            more = f" ({between} call)*" if several else ""
            self._rules.append(f"call: {self._one_call(chat, writes, '')}")
            self._rules.append(f"calls: {self._literal(writes.begin)} call{more} {end}")
            if talk:
                self._text_of_channels()
            return
        mark = _mark(tools, writes)
        if not mark:
            message = f"strict needs a mark that begins a call, which {tools.name} does not have"
            raise _unconstrained(chat, f"{message}: ask for a call with tool_choice")
        one = self._one_call(chat, writes, "" if writes.begin else mark)
        more = f" ({between} ({one}))*" if several and writes.begin else ""
        self._talk(tools, writes, one, f"{more} {end}")

    def _text_of_channels(self) -> None:
        channels = self._form.channels
        assert channels is not None
        head = self._literal(f"{channels.channel}final{channels.message}")
        self._rules.append(f"said: {head} SAID?")
        self._rules.append("SAID: /(?s:.+)/")
        self.start("(calls | said)")

    def _one_call(self, chat: ChatOptions, writes: Writes, mark: str) -> str:
        """The right side of the rule for one call: one alternative for each tool. mark: the
        beginning of a call that is left out."""
        must = chat.tool_choice != "auto"
        alternatives = []
        for place, tool in enumerate(chat.tools):
            function = tool["function"]
            if isinstance(chat.tool_choice, dict) and function["name"] != chat.tool_choice["name"]:
                continue
            schema = function.get("parameters") or ANY_OBJECT
            if not must and not function.get("strict"):
                schema = _loose(schema) if writes.key else ANY_OBJECT
            field = f"tools[{place}].function.parameters"
            self.parts.append((field, Constraint(kind="json_schema", text=json.dumps(schema))))
            try:
                check_schema(schema)
                arguments = self._arguments(f"args_{place}", schema, writes)
            except Unheld as unheld:
                raise _refusal(field, unheld) from None
            opening = writes.opening.removeprefix(mark)
            head = self._literal(f"{opening}{function['name']}{writes.middle}")
            alternatives.append(f"{head} {arguments} {self._literal(writes.closing)}")
        return " | ".join(f"({one})" for one in alternatives)

    def _arguments(self, name: str, schema: Mapping[str, Any], writes: Writes) -> str:
        """The arguments of one call; its rules have names that begin with `name`."""
        if not writes.key:
            self._rules.append(f"{name}: {_json(schema)}")
            return name
        for keyword in schema:
            if keyword not in (*_OF_MEMBERS, *_NOTES):
                message = f"{keyword} cannot be held where every argument is written on its own"
                raise Unheld(message, f"/{keyword}")
        required = schema.get("required", ())
        parts = []
        for place, (key, inner) in enumerate(schema.get("properties", {}).items()):
            value = self._value(f"{name}_{place}", inner, schema, writes, f"/properties/{key}")
            part = f"{self._literal(f'{writes.key}{key}{writes.key_end}')} {value}"
            parts.append(part if key in required else f"({part})?")
        return " ".join(parts)

    def _value(
        self, name: str, schema: Any, root: Mapping[str, Any], writes: Writes, pointer: str
    ) -> str:
        """One argument up to its end: text as it is if it is a string, else JSON."""
        end = self._literal(writes.value_end)
        if isinstance(schema, Mapping) and schema.get("type") == "string":
            if "enum" in schema:
                texts = " | ".join(json.dumps(text) for text in schema["enum"])
                return f"({texts}) {end}"
            others = [keyword for keyword in schema if keyword not in _PLAIN]
            if others:
                message = f"{others[0]} cannot be held for text that is written as it is"
                raise Unheld(message, f"{pointer}/{others[0]}")
            return self._up_to(name.upper(), writes.value_end)
        shared = {k: root[k] for k in ("$defs", "definitions") if k in root}
        whole = {**schema, **shared} if isinstance(schema, Mapping) else schema
        check_schema(whole)
        self._rules.append(f"{name}: {_json(whole)}")
        return f"{name} {end}"

    def _talk(self, tools: Tools, writes: Writes, one: str, more: str) -> None:
        """Text and calls in any order. one, more: a call without the mark that begins it, and what
        may follow a call in its section."""
        mark = _mark(tools, writes)
        self._rules.append(f"section: {self._literal(writes.begin[len(mark) :])} ({one}){more}")
        self.start(f"({self._up_to('UP_TO_CALL', mark)} section)* REST?")
        end = _escaped(mark)
        without = "" if mark in self._specials else f" & ~/(?s:.*){end}(?s:.*)/"
        self._rules.append(f"REST: /(?s:.+)/{without}")

    # ---- texts

    def _literal(self, text: str) -> str:
        """A text in a rule; special tokens in it stand for themselves."""
        parts, at = [], 0
        for found in self._split.finditer(text):
            parts += [json.dumps(text[at : found.start()])] * (found.start() > at)
            parts.append(f"<[{self._specials[found[0]]}]>")
            at = found.end()
        parts += [json.dumps(text[at:])] * (at < len(text))
        return " ".join(parts)

    def _up_to(self, name: str, mark: str) -> str:
        """Any text up to a mark and the mark. name: of the terminal."""
        if mark in self._specials:
            self._rules.append(f"{name}: /(?s:.+)/")
            return f"{name}? {self._literal(mark)}"
        end = _escaped(mark)
        # one terminal with the mark: the longest text that has it only at its end
        self._rules.append(f"{name}: /(?s:.*){end}/ & ~/(?s:.*){end}(?s:.+)/")
        return name


def _json(schema: Any) -> str:
    """The right side of a rule for JSON that follows a schema, which has been checked; how it is
    held is for `grammar_of`, which sees the whole grammar."""
    if schema is False:
        raise Unheld("no value satisfies false", "")
    return f"%json {json.dumps({} if schema is True else schema)}"


def _escaped(text: str) -> str:
    """A text as a regular expression between slashes."""
    return re.escape(text).replace("/", r"\/").replace("\n", r"\n")


def _mark(tools: Tools, writes: Writes) -> str:
    """The mark that begins calls as they are written, "" if there is none."""
    marks = [mark for section in tools.sections for mark in section.opens]
    return next((m for m in marks if f"{writes.begin}{writes.opening}".startswith(m)), "")


def _unconstrained(chat: ChatOptions, message: str) -> InvalidRequest:
    field = "tools" if chat.tool_choice == "auto" else "tool_choice"
    return InvalidRequest([FieldError(field, "auto, without strict", message)])


def _loose(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with the same members, of any type."""
    return {"type": "object", "properties": {key: {} for key in schema.get("properties", {})}}


def _refusal(field: str, unheld: Unheld) -> InvalidRequest:
    where = f"{field}#{unheld.pointer}" if unheld.pointer else field
    return InvalidRequest([FieldError(where, "a constraint that can be held", unheld.message)])
