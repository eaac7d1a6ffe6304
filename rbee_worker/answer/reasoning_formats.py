"""How models write reasoning: one table, data only.

Each row is what a family's authors publish (its chat template, its model card); `kinds.py` says
what the parts of a row mean, `find.py` which row a model follows. `tool_formats.py` is the table of
tool calls.
"""

from __future__ import annotations

from rbee_worker.answer.kinds import Channels, Format, Thinking

NO_FORMAT = Format()

HARMONY = Channels(
    start="<|start|>",
    channel="<|channel|>",
    message="<|message|>",
    ends=("<|end|>", "<|call|>", "<|return|>"),
    reasoning=("analysis",),
    recipient="to=functions.",
    to_answer="<|end|><|start|>assistant<|channel|>final<|message|>",
)
HARMONY_SIGNS = ("<|channel|>", "<|message|>", "<|start|>")

# The first row whose signs are all there is used.
THINKING: tuple[Thinking, ...] = (
    Thinking("<|channel>thought", "<channel|>", ("<|channel>", "<channel|>")),  # Gemma 4
    Thinking(
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    Thinking("<seed:think>", "</seed:think>", ("<seed:think>", "</seed:think>")),
    Thinking("[THINK]", "[/THINK]", ("[THINK]", "[/THINK]")),
    Thinking(
        "<think>", "</think>", ("<think>", "</think>", "<answer>"), ("<answer>", "</answer>")
    ),  # Hunyuan
    Thinking(
        "<think>", "</think>", ("<think>", "</think>", "<response>"), ("<response>", "</response>")
    ),  # Granite 3.3
    Thinking("<think>", "</think>", ("<think>", "</think>")),
    Thinking("<think>", "</think>", ("</think>",)),  # a template that only closes it
    Thinking("<thought>", "</thought>", ("<thought>", "</thought>")),
)
