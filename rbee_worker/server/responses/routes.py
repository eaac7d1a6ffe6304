"""The routes of OpenAI's Responses."""

from __future__ import annotations

from rbee_worker.server.operation import OPENAI, TEXT, WORK, Operation
from rbee_worker.server.responses import create, schemas, stored

_ONE = "/v1/responses/{response_id}"

OPERATIONS = (
    Operation(
        "POST",
        "/v1/responses",
        create.create_response,
        OPENAI,
        "Answer a conversation, in the form of Responses",
        body=schemas.ResponseEnvelope,
        answer=schemas.ResponseAnswer,
        events=True,
        errors=WORK,
    ),
    Operation(
        "POST",
        "/v1/responses/input_tokens",
        create.count_input_tokens,
        OPENAI,
        "The tokens of a conversation, in the form of Responses",
        body=schemas.PromptEnvelope,
        answer=schemas.InputTokens,
        errors=(404, *TEXT),
    ),
    Operation(
        "GET",
        _ONE,
        stored.get_response,
        OPENAI,
        "A kept response",
        answer=schemas.ResponseAnswer,
        errors=(404,),
    ),
    Operation(
        "DELETE",
        _ONE,
        stored.delete_response,
        OPENAI,
        "Forget a kept response",
        answer=schemas.Deleted,
        errors=(404,),
    ),
    Operation(
        "POST",
        f"{_ONE}/cancel",
        stored.cancel_response,
        OPENAI,
        "Cancel a response in the background; again changes nothing",
        answer=schemas.ResponseAnswer,
        errors=(404,),
    ),
    Operation(
        "GET",
        f"{_ONE}/input_items",
        stored.input_items,
        OPENAI,
        "What a kept response was given",
        answer=schemas.InputItems,
        errors=(404,),
    ),
)
