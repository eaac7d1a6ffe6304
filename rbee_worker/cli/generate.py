"""`rbee-worker generate`: one completion, streamed to the terminal or printed as JSON."""

from __future__ import annotations

import sys
import uuid
from typing import Any

import click
import msgspec
from click.exceptions import Exit

from rbee_worker.cli.adapter import only_adapter
from rbee_worker.cli.given import given_text
from rbee_worker.cli.terminal import aside, note, write_answer, write_reasoning
from rbee_worker.config import Settings
from rbee_worker.errors import INTERRUPTED, InvalidRequest, UsageError
from rbee_worker.pictures.files import picture_file
from rbee_worker.types import ChatOptions, Narration, Request


@click.argument("prompt", required=False, help="the text to continue; - reads it from stdin")
@click.option("--chat", is_flag=True, help="send it as a chat message, with the model's template")
@click.option("--system", metavar="TEXT", help="with --chat: the system message")
@click.option(
    "--image",
    "images",
    metavar="FILE",
    multiple=True,
    help="a picture that the model is shown (PNG, JPEG, WebP); may be repeated",
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object instead of streaming")
@click.option("--quiet", "-q", is_flag=True, help="print nothing but the answer and errors")
def generate(
    settings: Settings,
    sampling: dict[str, Any],
    prompt: str | None,
    chat: bool,
    system: str | None,
    images: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """One completion, streamed to the terminal."""
    if system is not None and not chat:
        raise UsageError("--system needs a chat template.", fix="add --chat.")
    if sampling.get("logprobs") is not None and not as_json:
        raise UsageError("--logprobs shows only in JSON.", fix="add --json.")
    text = given_text(prompt, "prompt", 'rbee-worker generate "Once upon a time"')
    most = settings.max_picture_kb << 10
    request = Request(
        id=f"gen-{uuid.uuid4().hex[:12]}",
        prompt=None if chat else text,
        messages=_messages(system, text, len(images)) if chat else None,
        pictures=tuple(picture_file(path, f"--image {path}", most) for path in images),
        params=sampling,
        surface="generate",
        adapter=only_adapter(settings),
        chat=ChatOptions(chat_defaults=chat),
    )
    import asyncio  # imported late: --help is quicker without it

    code = asyncio.run(_generate(settings, request, as_json=as_json, quiet=quiet))
    if code:
        raise Exit(code)


async def _generate(settings: Settings, request: Request, *, as_json: bool, quiet: bool) -> int:
    """Run the request; returns the exit code."""
    import asyncio

    from rbee_worker.cli.interrupt import Interrupt
    from rbee_worker.cli.session import open_engine
    from rbee_worker.cli.transcript import gather

    interrupt = Interrupt()
    try:
        with interrupt.watch():
            async with open_engine(settings, quiet=quiet) as client:
                with interrupt.ends(lambda: client.cancel(request.id)):
                    answer = await gather(
                        client.generate(request),
                        on_text=_nothing if as_json else write_answer,
                        on_narration=_nothing if quiet or as_json else _tell,
                        on_reasoning=_nothing if quiet or as_json else write_reasoning,
                        prompt_text=lambda s: (
                            request.prompt
                            or client.tokenizer.decode(list(s.prompt_ids), skip_special=False)
                        ),
                    )
    except InvalidRequest as e:
        raise UsageError(as_flags(e), fix=e.usual_fix) from e
    except asyncio.CancelledError:
        return INTERRUPTED
    if as_json:
        sys.stdout.write(msgspec.json.encode(answer.as_json()).decode() + "\n")
    elif not answer.text.endswith("\n"):
        write_answer("\n")
    if not quiet:
        if answer.thoughts and not as_json:
            aside("")
        for text in answer.own_warnings(client.info):
            note(text)
        aside(answer.summary())
    return INTERRUPTED if interrupt.pressed else 0


def _messages(system: str | None, text: str, pictures: int) -> tuple[dict[str, Any], ...]:
    """The conversation: pictures first, and then what is asked about them."""
    user: dict[str, Any] = {"role": "user", "content": text}
    if pictures:
        user["content"] = [*[{"type": "image"}] * pictures, {"type": "text", "text": text}]
    return (user,) if system is None else ({"role": "system", "content": system}, user)


def as_flags(error: InvalidRequest) -> str:
    """Field errors in command-line terms: --top-p: must be ..."""
    lines = [f"{_flag(e.field)}: {e.message}" for e in error.errors]
    return "; ".join(lines)


def _flag(field: str) -> str:
    own = field in ("prompt", "messages") or field.startswith("--")
    return field if own else "--" + field.replace("_", "-")


def _tell(narration: Narration) -> None:
    if sys.stderr.isatty():
        aside(narration.human)


def _nothing(_: object) -> None:
    """Takes an event and shows nothing."""
