"""GET /props and /slots: what a worker has of what llama.cpp's server tells of itself."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from rbee_worker.params import check_request
from rbee_worker.server.health import worker_of
from rbee_worker.server.llamacpp.schemas import DefaultSettings, Properties, Slot
from rbee_worker.server.llamacpp.settings import settings_of
from rbee_worker.server.problems import Refusal, json_response
from rbee_worker.server.served_models import served_models
from rbee_worker.types import Request


async def props(http: HttpRequest) -> Response:
    """The endpoint of GET /props."""
    worker = worker_of(http)
    engine = worker.serving()
    rules, info, tokenizer = engine.rules, engine.info, engine.tokenizer
    assert info is not None
    plain = check_request(Request(id="", prompt="?", surface="chat"), rules).params
    return json_response(
        Properties(
            default_generation_settings=DefaultSettings(
                n_ctx=info.context,
                speculative=info.speculate != "off",
                is_processing=bool(worker.jobs.live()),
                params={
                    **settings_of(plain, stream=True),
                    "seed": rules.worker.get("seed", -1),
                    "n_predict": rules.worker.get("max_tokens", -1),
                    "max_tokens": rules.worker.get("max_tokens", -1),
                },
            ),
            total_slots=worker.settings.max_seqs,
            model_alias=served_models(worker)[0].name,
            model_path=worker.settings.model,
            chat_template=rules.template or "",
            bos_token="" if tokenizer.bos_id is None else tokenizer.token_text(tokenizer.bos_id),
            eos_token=engine.eos[0].text if engine.eos else "",
            modalities={"vision": rules.pictures, "audio": False},
            build_info=f"rbee-worker {worker.version}",
        )
    )


async def slots(http: HttpRequest) -> Response:
    """The endpoint of GET /slots."""
    worker = worker_of(http)
    info = worker.serving().info
    assert info is not None
    busy = len(worker.jobs.live())
    return json_response(
        [
            Slot(
                id=place,
                n_ctx=info.context,
                speculative=info.speculate != "off",
                is_processing=place < busy,
            )
            for place in range(worker.settings.max_seqs)
        ]
    )


async def slot_action(http: HttpRequest) -> Response:
    """The endpoint of POST /slots/{id}."""
    raise Refusal(
        400,
        "not_implemented",
        "A slot keeps nothing that could be saved, restored or erased.",
        fix="equal beginnings of prompts are found without it.",
    )
