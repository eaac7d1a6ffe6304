"""The routes of Anthropic's Messages."""

from __future__ import annotations

from rbee_worker.server.anthropic import messages, schemas
from rbee_worker.server.operation import ANTHROPIC, TEXT, WORK, Operation
from rbee_worker.server.schemas import TokenCount

OPERATIONS = (
    Operation(
        "POST",
        "/v1/messages",
        messages.create_message,
        ANTHROPIC,
        "Answer a conversation, in Anthropic's form",
        body=schemas.MessagesEnvelope,
        answer=schemas.MessageAnswer,
        events=True,
        errors=WORK,
    ),
    Operation(
        "POST",
        "/v1/messages/count_tokens",
        messages.count_tokens,
        ANTHROPIC,
        "The tokens of a conversation, in Anthropic's form",
        body=schemas.PromptEnvelope,
        answer=TokenCount,
        errors=(404, *TEXT),
    ),
)
