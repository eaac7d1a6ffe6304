"""A kept response: GET, DELETE, cancel, and its input."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from rbee_worker.server.encoding import answered
from rbee_worker.server.health import worker_of
from rbee_worker.server.problems import Refusal, json_response
from rbee_worker.server.responses.answer import answer_of
from rbee_worker.server.responses.kept import Kept
from rbee_worker.server.responses.schemas import Deleted, InputItems


def _found(http: HttpRequest) -> Kept:
    return worker_of(http).responses.find(http.path_params["response_id"])


async def get_response(http: HttpRequest) -> Response:
    """The response as far as it is."""
    kept = _found(http)
    return await answered(lambda: answer_of(kept, kept.output()), kept.job.size)


async def delete_response(http: HttpRequest) -> Response:
    """Forget a response; one that is being computed is cancelled."""
    kept, worker = _found(http), worker_of(http)
    worker.responses.drop(kept.id)
    await worker.cancel(kept.job)
    return json_response(Deleted(id=kept.id))


async def cancel_response(http: HttpRequest) -> Response:
    """Cancel a response that was asked for in the background; again changes nothing."""
    kept, worker = _found(http), worker_of(http)
    if not kept.given.background:
        message = "Only responses with background: true can be cancelled."
        fix = "close the connection of this one, or delete it."
        raise Refusal(400, "not_in_background", message, fix=fix, param="response_id")
    await worker.cancel(kept.job)
    await kept.job.ended()
    return await answered(lambda: answer_of(kept, kept.output()), kept.job.size)


async def input_items(http: HttpRequest) -> Response:
    """The items that were given, the last one first."""
    items = list(reversed(_found(http).items))
    first, last = (items[0]["id"], items[-1]["id"]) if items else ("", "")
    answer = InputItems(data=items, first_id=first, last_id=last)
    return await answered(partial(_same, answer), len(items))


def _same(answer: InputItems) -> InputItems:
    return answer
