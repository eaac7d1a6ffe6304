"""The input line of `chat`: history on disk, messages of several lines, completion of commands."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import NestedCompleter, PathCompleter
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from rbee_worker.cli.set_values import settable

_COMMANDS = ("/help", "/system", "/reset", "/retry", "/stats", "/copy", "/quit")
_WITH_FILE = ("/save", "/load", "/attach")


class Prompt:
    """Reads one message at a time from the terminal."""

    def __init__(self) -> None:
        names = dict.fromkeys(settable())
        self._session: PromptSession[str] = PromptSession(
            HTML("<ansigreen><b>› </b></ansigreen>"),
            history=_history(os.environ),
            auto_suggest=AutoSuggestFromHistory(),
            completer=NestedCompleter.from_nested_dict(
                {
                    "/set": names,
                    **dict.fromkeys(_COMMANDS),
                    **dict.fromkeys(_WITH_FILE, PathCompleter(expanduser=True)),
                }
            ),
            complete_while_typing=False,
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation="  ",
        )

    async def read(self, toolbar: str) -> str | None:
        """The next message; "" after Ctrl-C, None after Ctrl-D."""
        try:
            return await self._session.prompt_async(bottom_toolbar=toolbar)
        except KeyboardInterrupt:
            return ""
        except EOFError:
            return None


def _history(environ: Mapping[str, str]) -> History:
    """Lines of earlier conversations; only of this one if the history file cannot be written."""
    try:
        return FileHistory(str(history_file(environ)))
    except OSError:
        return InMemoryHistory()


def history_file(environ: Mapping[str, str]) -> Path:
    """The history file, in XDG_STATE_HOME; only the user can read it."""
    state = environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    folder = Path(state) / "rbee-worker"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = folder / "chat-history"
    file.touch(mode=0o600)
    return file


def _keys() -> KeyBindings:
    """Enter sends, unless the line ends with a backslash; Alt-Enter starts a new line."""
    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _break(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
