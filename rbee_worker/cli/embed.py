"""`rbee-worker embed`: texts to vectors, JSON lines in and out."""

from __future__ import annotations

import base64
import sys
import time
from array import array
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import click
import msgspec
from click.exceptions import Exit
from msgspec import Meta, Struct

from rbee_worker.cli.adapter import only_adapter
from rbee_worker.cli.terminal import Status, aside, note
from rbee_worker.config import Settings
from rbee_worker.errors import INTERRUPTED, InferenceFailed, InvalidRequest, UsageError
from rbee_worker.types import End, Error, Request, Started, Vector

if TYPE_CHECKING:
    from rbee_worker.session.client import EngineClient

_FORM = 'a line is "a text", or {"text": ...} or {"token_ids": [...]}, perhaps with an id.'


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the input, if it is not just a string. id: returned unchanged."""

    text: str | None = None
    token_ids: list[Annotated[int, Meta(ge=0)]] | None = None
    id: Any = msgspec.UNSET


class Row(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the output, in the order of the input."""

    index: int
    id: Any = msgspec.UNSET
    embedding: list[float] | str
    tokens: int
    warnings: tuple[str, ...] = ()


@click.argument("texts", nargs=-1, metavar="[TEXT]...", help="texts; none: JSON lines on stdin")
@click.option("--dimensions", type=click.IntRange(1), help="keep this many numbers of a vector")
@click.option("--prompt-name", metavar="NAME", help="which of the model's prompts comes first")
@click.option("--truncate", is_flag=True, help="cut texts that are too long, not refuse them")
@click.option("--base64", "packed", is_flag=True, help="vectors as base64 of float32")
@click.option("--quiet", "-q", is_flag=True, help="print nothing but vectors and errors")
def embed(
    settings: Settings,
    texts: tuple[str, ...],
    dimensions: int | None,
    prompt_name: str | None,
    truncate: bool,
    packed: bool,
    quiet: bool,
) -> None:
    """Vectors of texts, one JSON object a line. Without TEXT it reads stdin: on each line a JSON
    string, or an object with text or token_ids, and perhaps an id."""
    if not texts and sys.stdin.isatty():
        raise UsageError("no text.", fix='rbee-worker embed "a text", or JSON lines on stdin.')
    only_adapter(settings)
    import asyncio  # imported late: --help is quicker without it

    work = _Work(dimensions or 0, prompt_name, truncate, packed, quiet)
    code = asyncio.run(_embed(settings, texts, work))
    if code:
        raise Exit(code)


async def _embed(settings: Settings, texts: tuple[str, ...], work: _Work) -> int:
    """All texts; returns the exit code."""
    import asyncio

    from rbee_worker.cli.interrupt import Interrupt
    from rbee_worker.cli.session import open_engine

    try:
        with Interrupt().watch():
            async with open_engine(settings, quiet=work.quiet) as client:
                await work.run(client, _given(texts) if texts else _stdin())
    except asyncio.CancelledError:
        return INTERRUPTED
    return 0


class _Work:
    """How texts become rows, and what is done so far."""

    def __init__(
        self, dimensions: int, prompt: str | None, truncate: bool, packed: bool, quiet: bool
    ) -> None:
        self._dimensions, self._prompt, self._truncate = dimensions, prompt, truncate
        self._packed, self.quiet = packed, quiet
        self._status = Status()
        self._began = 0.0
        self._rows = self._tokens = 0

    async def run(
        self, client: EngineClient, lines: AsyncIterator[tuple[str, Line | UsageError]]
    ) -> None:
        """Write a row for each line, in order; the engine has a number of texts at a time.

        Raises UsageError for a line that cannot be used, and names it; the rows of all lines before
        it are written.
        """
        import asyncio

        settings, self._began = client.settings, time.monotonic()
        most = min(2 * settings.max_seqs, settings.max_seqs + settings.max_queue)
        running: deque[asyncio.Task[Row]] = deque()
        number = 0
        try:
            async for where, line in lines:
                running.append(asyncio.create_task(self._row(client, number, where, line)))
                number += 1
                if len(running) >= most:
                    self._write(await running.popleft())
            while running:
                self._write(await running.popleft())
        finally:
            self._status.clear()
            for task in running:
                task.cancel()
        if not self.quiet:
            aside(self._told())

    async def _row(
        self, client: EngineClient, number: int, where: str, line: Line | UsageError
    ) -> Row:
        if isinstance(line, UsageError):
            raise line
        try:
            request = self._request(client, number, line)
            return await self._answer(client, request, number, line)
        except InvalidRequest as error:
            raise UsageError(f"{where}: {error.message}.", fix=error.usual_fix) from error

    def _request(self, client: EngineClient, number: int, line: Line) -> Request:
        from rbee_worker.session.vectors import embedding

        assert client.info is not None
        given = line.text if line.token_ids is None else tuple(line.token_ids)
        assert given is not None
        request = embedding(
            f"embed-{number}",
            given,
            client.info,
            client.sentence,
            prompt=self._prompt,
            dimensions=self._dimensions,
            truncate=self._truncate,
        )
        return msgspec.structs.replace(request, adapter=only_adapter(client.settings))

    async def _answer(self, client: EngineClient, request: Request, number: int, line: Line) -> Row:
        data, tokens = b"", 0
        warnings: tuple[str, ...] = ()
        assert client.info is not None
        async for event in client.generate(request):
            if isinstance(event, Started):
                warnings = tuple(w for w in event.warnings if w not in client.info.notes)
            elif isinstance(event, Vector):
                data = event.data
            elif isinstance(event, End):
                tokens = event.usage.prompt_tokens
            elif isinstance(event, Error):
                raise InferenceFailed(event.message)
        vector: list[float] | str = base64.b64encode(data).decode()
        if not self._packed:
            values = array("f", data)
            if sys.byteorder == "big":
                values.byteswap()
            vector = values.tolist()
        return Row(index=number, id=line.id, embedding=vector, tokens=tokens, warnings=warnings)

    def _write(self, row: Row) -> None:
        sys.stdout.write(msgspec.json.encode(row).decode() + "\n")
        self._rows += 1
        self._tokens += row.tokens
        if not self.quiet:
            for warning in row.warnings:
                note(f"text {row.index}: {warning}")
            self._status.show(self._told())

    def _told(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-9)
        return (
            f"{self._rows:,} texts, {self._tokens:,} tokens, {self._tokens / seconds:,.0f} tokens/s"
        )


async def _given(texts: Iterable[str]) -> AsyncIterator[tuple[str, Line | UsageError]]:
    """The command line's texts, and their names for errors."""
    for number, text in enumerate(texts, 1):
        yield f"text {number}", Line(text=text)


async def _stdin() -> AsyncIterator[tuple[str, Line | UsageError]]:
    """The lines of stdin, up to the first one that has another form: in its place, its error."""
    import asyncio

    number = 0
    try:
        while text := await asyncio.to_thread(sys.stdin.readline):
            number += 1
            if text.strip():
                yield f"line {number}", _parsed(text, f"line {number}")
    except UnicodeDecodeError:
        yield "stdin", UsageError("stdin is not UTF-8 text.", fix="convert it to UTF-8.")
    except UsageError as error:
        yield f"line {number}", error


def _parsed(text: str, where: str) -> Line:
    try:
        made = msgspec.json.decode(text, type=str | Line)
    except UnicodeEncodeError:  # bytes that are no UTF-8, as Python reads them in the C locale
        raise UsageError(f"{where}: is not UTF-8 text.", fix="convert it to UTF-8.") from None
    except (msgspec.DecodeError, RecursionError) as error:
        reason = str(error).partition(" - at")[0]
        raise UsageError(f"{where}: cannot be read ({reason}).", fix=_FORM) from None
    line = Line(text=made) if isinstance(made, str) else made
    if (line.text is None) == (line.token_ids is None):
        raise UsageError(f"{where}: has not exactly one of text and token_ids.", fix=_FORM)
    return line
