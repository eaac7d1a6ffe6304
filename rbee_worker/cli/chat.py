"""`rbee-worker chat`: a conversation in the terminal."""

from __future__ import annotations

import os
import sys
import time
import uuid
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.exceptions import Exit

from rbee_worker.cli import set_values
from rbee_worker.cli.adapter import only_adapter, refuse_adapters
from rbee_worker.cli.conversation import COMMANDS, HELP, Conversation
from rbee_worker.cli.terminal import aside, bold, dim, error_line, flat, no_echo, note
from rbee_worker.config import Settings
from rbee_worker.errors import INTERRUPTED, UsageError, WorkerError
from rbee_worker.params.resolve import similar
from rbee_worker.types import ChatOptions, Request

if TYPE_CHECKING:
    from rbee_worker.cli.interrupt import Interrupt
    from rbee_worker.cli.prompt import Prompt
    from rbee_worker.cli.remote import RemoteClient
    from rbee_worker.cli.transcript import Transcript
    from rbee_worker.session.client import EngineClient


@click.option("--system", metavar="TEXT", help="the system message")
@click.option("--url", metavar="URL", help="use the worker at this URL (token: RBEE_API_TOKEN)")
def chat(settings: Settings, sampling: dict[str, Any], system: str | None, url: str | None) -> None:
    """Talk with the model; /help lists what you can do."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "chat needs a terminal.", fix='rbee-worker generate --chat "..." works in a pipe.'
        )
    only_adapter(settings)
    if url is not None:
        refuse_adapters(settings, "chat --url")
    import asyncio  # imported late: --help is quicker without it

    code = asyncio.run(_chat(settings, sampling, system, url))
    if code:
        raise Exit(code)


async def _chat(
    settings: Settings, sampling: dict[str, Any], system: str | None, url: str | None
) -> int:
    import asyncio

    from rbee_worker.cli.interrupt import Interrupt
    from rbee_worker.cli.prompt import Prompt

    interrupt = Interrupt()
    try:
        with interrupt.watch():
            opening = _opening(settings, url)
            client = await opening.__aenter__()
        try:
            if client.chat is None:
                raise UsageError(
                    f"{settings.model} has no chat template.",
                    fix='continue text with: rbee-worker generate "...".',
                )
            rules = client.rules
            set_values.check(sampling, rules)
            talk = Conversation(
                lambda name, text: set_values.read(name, text, rules),
                set_values.defaults(rules),
                system,
                params=dict(sampling),
            )
            adapter = only_adapter(settings)
            most = settings.max_picture_kb << 10
            await ChatLoop(
                client, talk, Prompt(), interrupt, adapter=adapter, most_bytes=most
            ).run()
        finally:
            await opening.__aexit__(None, None, None)
    except asyncio.CancelledError:
        return INTERRUPTED
    return 0


def _opening(
    settings: Settings, url: str | None
) -> AbstractAsyncContextManager[EngineClient | RemoteClient]:
    if url is not None:
        from rbee_worker.cli.remote import open_worker

        return open_worker(url)
    from rbee_worker.cli.session import open_engine

    return open_engine(settings)


@dataclass
class ChatLoop:
    """Reads a line and carries it out, until the user leaves. most_bytes: of a picture's file."""

    client: EngineClient | RemoteClient
    talk: Conversation
    prompt: Prompt
    interrupt: Interrupt
    answers: list[Transcript] = field(default_factory=list)
    adapter: str = ""
    most_bytes: int = 10 << 20

    async def run(self) -> None:
        """Run until Ctrl-D or /quit."""
        info = self.client.info
        assert info is not None
        sys.stdout.write(
            f"{bold(flat(info.model), sys.stdout)} "
            + dim(
                f"{flat(info.arch)}, {info.context:,} tokens of context, {info.device}",
                sys.stdout,
            )
            + "\n"
            + dim("/help lists the commands, Ctrl-D leaves.", sys.stdout)
            + "\n\n"
        )
        while (line := await self.prompt.read(self._toolbar())) is not None:
            try:
                if not await self._obey(line):
                    return
            except WorkerError as e:
                error_line(e.line)

    async def _obey(self, line: str) -> bool:
        """Carry out one line of input; False to leave."""
        word, _, rest = line.strip().partition(" ")
        match word:
            case "":
                pass
            case "/quit" | "/exit" | "/bye":
                return False
            case "/help":
                aside(HELP)
            case "/set":
                aside(self.talk.set(rest))
            case "/system":
                aside(self.talk.set_system(rest))
            case "/reset":
                aside(self.talk.reset())
            case "/stats":
                aside(self._stats())
            case "/copy":
                from rbee_worker.cli.clipboard import copy

                aside(copy(self.talk.last_answer()))
            case "/save":
                aside(self.talk.save(_save_path(rest), self._model()))
            case "/load":
                aside(self.talk.load(_load_path(rest)))
            case "/attach":
                aside(self._attach(rest.strip()))
            case "/retry":
                await self._ask(self.talk.retry())
            case _ if word.startswith("/"):
                near = similar(word, COMMANDS)
                fix = f"{near}? /help lists them all." if near else "/help lists them."
                raise UsageError(f"{word}: no such command.", fix=fix)
            case _:
                await self._ask(line)
        return True

    async def _ask(self, text: str) -> None:
        """Send one question and stream its answer."""
        from rbee_worker.cli.images import with_files
        from rbee_worker.cli.shown import Shown
        from rbee_worker.cli.transcript import gather

        self.talk.ask(text)
        messages, pictures = with_files(self.talk.messages())
        request = Request(
            id=f"chat-{uuid.uuid4().hex[:12]}",
            messages=messages,
            pictures=pictures,
            params=dict(self.talk.params),
            surface="generate",
            chat=ChatOptions(chat_defaults=True),
            adapter=self.adapter,
        )
        shown = Shown()
        try:
            with (
                no_echo(),
                self.interrupt.watch(),
                self.interrupt.ends(lambda: self.client.cancel(request.id)),
            ):
                answer = await gather(
                    self.client.generate(request),
                    on_text=shown.answer,
                    on_narration=shown.narration,
                    prompt_text=lambda _: "",  # the user can see the question already
                    on_reasoning=shown.reasoning,
                )
        finally:
            shown.end()
            self.talk.answer("".join(shown.said))
        self.answers.append(answer)
        for call in answer.tool_calls:
            aside(f"calls {call.name}({call.arguments})")
        for warning in answer.own_warnings(self.client.info):
            note(warning)
        aside(answer.summary() + "\n")

    def _attach(self, path: str) -> str:
        """Attach a picture to the next question."""
        from rbee_worker.cli.images import image_part

        if not self.client.rules.pictures:
            raise UsageError("this model takes no pictures.", fix="ask it in words.")
        if not path:
            raise UsageError("/attach needs a file.", fix="/attach FILE (PNG, JPEG or WebP).")
        return self.talk.attach(image_part(path, self.most_bytes), path)

    def _model(self) -> str:
        assert self.client.info is not None
        return self.client.info.model

    def _toolbar(self) -> str:
        info = self.client.info
        assert info is not None
        used = self._context_used()
        speed = self.answers[-1].tokens_per_s if self.answers else None
        return (
            f" {info.model} · {used:,} of {info.context:,} tokens used"
            + (f" · {speed:.1f} tok/s" if speed else "")
            + " · /help "
        )

    def _context_used(self) -> int:
        if not self.answers or not self.talk.turns:
            return 0
        end = self.answers[-1].end
        return end.usage.prompt_tokens + end.usage.output_tokens if end else 0

    def _stats(self) -> str:
        """The speed of the last answer, and totals."""
        if not self.answers:
            return "No answer yet."
        usages = [a.end.usage for a in self.answers if a.end]
        made, read = (sum(u.output_tokens for u in usages), sum(u.prompt_tokens for u in usages))
        cached = sum(u.cached_tokens for u in usages)
        first = self.answers[-1].first_token_s
        wait = f", first token after {first:.2f} s" if first else ""
        return (
            f"last: {self.answers[-1].summary()}{wait}\n"
            f"all {len(usages)} answers: {made:,} tokens made, {read:,} read, {cached:,} of them "
            f"cached\ncontext: {self._context_used():,} tokens used"
        )


def _save_path(rest: str) -> Path:
    name = rest.strip() or time.strftime("chat-%Y%m%d-%H%M%S.json")
    return Path(os.path.expanduser(name))


def _load_path(rest: str) -> Path:
    if not rest.strip():
        raise UsageError("/load needs a file.", fix="/load FILE, one that /save wrote.")
    return Path(os.path.expanduser(rest.strip()))
