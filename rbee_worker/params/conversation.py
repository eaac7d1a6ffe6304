"""What only a conversation can ask for (tools, reasoning), checked against the model's template and
turned into the template's own variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from rbee_worker.answer import Format, reads
from rbee_worker.errors import FieldError, InvalidRequest, UsageError
from rbee_worker.params.rules import Rules
from rbee_worker.types import ChatOptions, Effort, Request, SamplingParams

MOST_TOOLS = 256
_SWITCHES = ("enable_thinking", "thinking")  # the names that templates have for it

ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.\-]{1,128}$")]


class FunctionSchema(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """parameters: a JSON schema of an object. strict: arguments must follow it."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSchema(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call."""

    type: Literal["function"]
    function: FunctionSchema


Tools = Annotated[list[ToolSchema], Meta(max_length=MOST_TOOLS)]


class ChosenName(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: ToolName


class ChosenTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The one tool that must be called."""

    type: Literal["function"]
    function: ChosenName


ToolChoice = Literal["auto", "none", "required"] | ChosenTool


class PromptFields(Struct, kw_only=True):
    """What only a conversation can ask for, as far as it shows in the prompt."""

    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    reasoning_effort: Effort | None = None
    enable_thinking: bool | None = None


class ChatFields(PromptFields, kw_only=True):
    """What only a conversation can ask for."""

    parallel_tool_calls: bool | None = None
    reasoning_format: Literal["auto", "none"] | None = None


def chat_options(given: PromptFields, tools: Sequence[dict[str, Any]]) -> ChatOptions:
    """The options that these fields are. tools: those of `given` as they were written: the order of
    their keys is part of the prompt."""
    choice = given.tool_choice or "auto"
    options = ChatOptions(
        tools=tuple(tools) if given.tools else (),
        tool_choice=choice if isinstance(choice, str) else {"name": choice.function.name},
        reasoning_effort=given.reasoning_effort,
        enable_thinking=given.enable_thinking,
    )
    if not isinstance(given, ChatFields):
        return options
    return msgspec.structs.replace(
        options,
        parallel_tool_calls=given.parallel_tool_calls is not False,
        separate_reasoning=given.reasoning_format != "none",
    )


def split_options(params: Mapping[str, Any]) -> tuple[ChatOptions, dict[str, Any]]:
    """What only a conversation can ask for, among parameters; and the others. Raises
    InvalidRequest."""
    asked = {k: v for k, v in params.items() if k in ChatFields.__struct_fields__}
    try:
        given = msgspec.convert(asked, ChatFields)
    except (msgspec.ValidationError, TypeError) as error:
        text, _, where = str(error).partition(" - at `$.")
        fault = FieldError(where.rstrip("`") or "tools", "as in docs/tools.md", text[:200])
        raise InvalidRequest([fault]) from None
    rest = {k: v for k, v in params.items() if k not in asked}
    return chat_options(given, asked.get("tools") or ()), rest


def shown_tools(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools as a template gets them: as they were given, without what is not for the model."""
    return [
        {**tool, "function": {k: v for k, v in tool["function"].items() if k != "strict"}}
        for tool in tools
    ]


def conversation_faults(request: Request, rules: Rules) -> list[FieldError]:
    """The faults of a request's `ChatOptions`."""
    chat = request.chat
    if chat == ChatOptions():
        return []
    if request.messages is None and request.surface != "chat":
        asked = [n for n in chat.__struct_fields__ if getattr(chat, n) != _DEFAULTS[n]]
        return [FieldError(n, "with messages", "means nothing without messages") for n in asked]
    faults = [*_tool_choice(chat), *_template_and_tools(chat, rules)]
    if not chat.separate_reasoning and not rules.form.reasons:
        faults.append(_without_reasoning("reasoning_format"))
    _, _, found = reasoning_args(request, rules)
    return faults + found


def _tool_choice(chat: ChatOptions) -> list[FieldError]:
    names = [tool["function"]["name"] for tool in chat.tools]
    faults = [
        FieldError(f"tools[{place}].function.name", "unique", "two tools have this name")
        for place, name in enumerate(names)
        if name in names[:place]
    ]
    choice = chat.tool_choice
    if not names and choice not in ("auto", "none"):
        faults.append(FieldError("tool_choice", "with tools", "needs tools to choose from"))
    elif isinstance(choice, dict) and choice["name"] not in names:
        message = "is not the name of one of the tools"
        faults.append(FieldError("tool_choice.function.name", "a tool's name", message))
    return faults


def _template_and_tools(chat: ChatOptions, rules: Rules) -> list[FieldError]:
    if not chat.offered or rules.template is None or rules.takes_tools:
        return []
    if rules.form.tools is None and reads(rules.tool_template or "", "tools"):
        message = (
            "this model's chat template takes tools, but how the model writes calls is not known: "
            "a worker started with --tool-format NAME reads them"
        )
    else:
        message = (
            "this model's chat template takes no tools; a worker started with --tool-format "
            "prompt describes them in a system message"
        )
    return [FieldError("tools", "a model that takes tools", message)]


def switch_of(template: str) -> str | None:
    """The variable by which a template switches reasoning on and off."""
    return next((name for name in _SWITCHES if reads(template, name)), None)


def default_switch(setting: str, template: str | None, form: Format) -> bool | None:
    """What `--thinking` makes of the template's switch where a request does not say; None: nothing,
    because the model does so in any case. Raises UsageError where the model cannot."""
    if setting == "auto" or switch_of(template or "") is not None:
        return None if setting == "auto" else setting == "on"
    if (setting == "on") == form.reasons:
        return None
    why = (
        "this model's chat template cannot switch reasoning off"
        if form.reasons
        else "no marks of reasoning are known for this model"
    )
    raise UsageError(f"--thinking {setting}: {why}", fix="start without it")


def reasoning_args(
    request: Request, rules: Rules
) -> tuple[dict[str, Any], tuple[str, ...], list[FieldError]]:
    """Variables for the template that reasoning_effort and enable_thinking stand for, warnings, and
    faults where the template reads no such variable."""
    chat, template = request.chat, rules.template_for(request)
    switch = switch_of(template)
    args: dict[str, Any] = {}
    warnings: list[str] = []
    faults: list[FieldError] = []
    message = "is not read by this model's chat template"
    if chat.enable_thinking is not None:
        if switch is None:
            faults.append(FieldError("enable_thinking", "a template that reads it", message))
        else:
            args[switch] = chat.enable_thinking
    effort = chat.reasoning_effort
    if effort is not None and reads(template, "reasoning_effort"):
        args["reasoning_effort"] = effort
    elif effort is not None and switch is not None:
        args.setdefault(switch, effort != "none")
        if effort != "none":
            warnings.append(
                "reasoning_effort: the chat template can only switch reasoning on or off; it is on"
            )
    elif effort is not None and (effort != "none" or rules.form.reasons):
        faults.append(FieldError("reasoning_effort", "a template that reads it", message))
    says = {*args, *request.template_args} & {*_SWITCHES, "reasoning_effort"}
    if rules.thinking is not None and switch is not None and not says:
        args[switch] = rules.thinking
    for name in args.keys() & request.template_args.keys():
        faults.append(FieldError(f"template_args.{name}", "once", "is given in two places"))
    return args, tuple(warnings), faults


def budget_faults(request: Request, params: SamplingParams, rules: Rules) -> list[FieldError]:
    """The faults of a thinking_budget."""
    if params.thinking_budget is None:
        return []
    name = "thinking_budget"
    name = name if name in request.params else "max_thinking_tokens"
    if request.messages is None and request.surface != "chat":
        return [FieldError(name, "with messages", "means nothing without messages")]
    if not rules.form.reasons:
        return [_without_reasoning(name)]
    if params.logprobs is not None:
        message = "cannot be combined with logprobs: the end that is written has none"
        return [FieldError(name, "without logprobs", message)]
    return []


def _without_reasoning(name: str) -> FieldError:
    message = "means nothing here: no marks of reasoning are known for this model"
    return FieldError(name, "a model that reasons", message)


_DEFAULTS = {name: getattr(ChatOptions(), name) for name in ChatOptions.__struct_fields__}
