"""What an answer consists of: reasoning, text, tool calls. The formats in which models write these,
and the reader that takes them apart while the text comes.

Text in, pieces out: nothing here knows of ids, templates' rendering, or HTTP.
"""

from rbee_worker.answer.find import find_format, reads
from rbee_worker.answer.kinds import Format
from rbee_worker.answer.reader import Reader
from rbee_worker.answer.reasoning_formats import NO_FORMAT
from rbee_worker.answer.schemas import tool_table
from rbee_worker.answer.tape import call_ids
from rbee_worker.answer.tool_formats import by_name, tool_formats

__all__ = [
    "NO_FORMAT",
    "Format",
    "Reader",
    "by_name",
    "call_ids",
    "find_format",
    "reads",
    "tool_formats",
    "tool_table",
]
