"""/v1/adapters: the adapters that requests can name, and, where the operator allows it, loading and
unloading them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from rbee_worker.adapter_spec import AdapterSpec, check_name
from rbee_worker.errors import FieldError, UsageError
from rbee_worker.model_info import AdapterInfo
from rbee_worker.server.body import envelope, read_object, refuse, unknown_faults
from rbee_worker.server.health import worker_of
from rbee_worker.server.problems import Refusal, json_response
from rbee_worker.server.served_models import base_names
from rbee_worker.server.worker import Worker


class AdapterEnvelope(Struct, frozen=True, kw_only=True):
    """name: in the `model` of requests; ref: a PEFT directory or a .gguf file on the worker's
    machine, or a reference as --lora takes it; scale: a factor on all that it adds."""

    name: str
    ref: Annotated[str, Meta(min_length=1, max_length=4096)]
    scale: Annotated[float, Meta(ge=-1e6, le=1e6)] = 1.0


class AdapterCard(Struct, frozen=True, kw_only=True):
    """A loaded adapter. key: a digest of what it computes; bytes: its size in memory; base: the
    model that it says it was trained on."""

    name: str
    ref: str
    key: str
    scale: float
    rank: int
    bytes: int
    base: str


class AdapterList(Struct, frozen=True, kw_only=True):
    """slots: how many can be loaded together; loadable: whether these routes load and unload."""

    data: list[AdapterCard]
    slots: int
    loadable: bool


async def listing(http: HttpRequest) -> Response:
    """GET /v1/adapters."""
    worker = worker_of(http)
    engine = worker.engine
    found = () if engine is None else engine.adapters.infos
    slots = 0 if engine is None else engine.adapters.most
    cards = [_card(info) for info in found]
    loadable = worker.settings.lora_slots > 0
    return json_response(AdapterList(data=cards, slots=slots, loadable=loadable))


async def load(http: HttpRequest) -> Response:
    """POST /v1/adapters."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    _refuse_unless_allowed(worker)
    engine = worker.serving()
    given, rest, faults = envelope(body, AdapterEnvelope)
    faults += unknown_faults(rest, AdapterEnvelope)
    if "name" in body.values and not any(f.field == "name" for f in faults):
        faults += _name_faults(worker, given.name)
    refuse(faults)
    spec = AdapterSpec(name=given.name, ref=given.ref, scale=given.scale)
    return json_response(_card(await engine.adapters.load(spec)))


async def unload(http: HttpRequest) -> Response:
    """DELETE /v1/adapters/{name}."""
    worker = worker_of(http)
    _refuse_unless_allowed(worker)
    engine, name = worker.serving(), http.path_params["name"]
    if name not in {info.name for info in engine.adapters.infos}:
        raise Refusal(
            404, "adapter_not_found", "No adapter of this name is loaded.",
            fix="GET /v1/adapters lists them.",
        )  # fmt: skip
    return json_response(_card(engine.adapters.unload(name)))


def _refuse_unless_allowed(worker: Worker) -> None:
    if not worker.settings.lora_slots:
        raise Refusal(
            403,
            "adapters_fixed",
            "This worker loads no adapters at run time.",
            fix="start it with --lora-slots, or name the adapters with --lora.",
        )


def _name_faults(worker: Worker, name: str) -> list[FieldError]:
    if name in base_names(worker):
        return [FieldError("name", "not the model's", "is a name of the model itself")]
    try:
        check_name(name)
    except UsageError:
        message = (
            "must be 1 to 64 letters, digits, dots, dashes and underscores; a letter or a digit "
            "comes first, also after a slash"
        )
        return [FieldError("name", "a short name", message)]
    return []


def _card(info: AdapterInfo) -> AdapterCard:
    return AdapterCard(
        name=info.name,
        ref=info.ref,
        key=info.key,
        scale=info.scale,
        rank=info.rank,
        bytes=info.nbytes,
        base=info.base,
    )
