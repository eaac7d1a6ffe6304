"""Request parameters: their table, strict resolving with origins, fitting into the context.

Torch-free. `PARAMETERS` is the one list; resolving, /info and the command line all read it.
"""

from rbee_worker.params.command_line import Option, from_text, options
from rbee_worker.params.constraint import asks_for_constraint
from rbee_worker.params.conversation import (
    ChatFields,
    PromptFields,
    chat_options,
    default_switch,
    reasoning_args,
    shown_tools,
    split_options,
    switch_of,
)
from rbee_worker.params.groups import GROUPS, group_of
from rbee_worker.params.parameter import Parameter, Surface
from rbee_worker.params.request import (
    PROMPTS,
    check_request,
    defaults_of,
    id_faults,
    length_faults,
    prompt_faults,
)
from rbee_worker.params.resolve import (
    MOST_GUESSES,
    fit,
    generation_defaults,
    nearest,
    report,
    resolve,
)
from rbee_worker.params.rules import Rules
from rbee_worker.params.table import PARAMETERS, describe, names, split

__all__ = [
    "GROUPS",
    "MOST_GUESSES",
    "PARAMETERS",
    "PROMPTS",
    "ChatFields",
    "Option",
    "Parameter",
    "PromptFields",
    "Rules",
    "Surface",
    "asks_for_constraint",
    "chat_options",
    "check_request",
    "default_switch",
    "defaults_of",
    "describe",
    "fit",
    "from_text",
    "generation_defaults",
    "group_of",
    "id_faults",
    "length_faults",
    "names",
    "nearest",
    "options",
    "prompt_faults",
    "reasoning_args",
    "report",
    "resolve",
    "shown_tools",
    "split",
    "split_options",
    "switch_of",
]
