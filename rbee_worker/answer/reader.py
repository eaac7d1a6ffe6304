"""Takes an answer apart while it comes: reasoning, text and tool calls, each piece as soon as it is
certain.

The same text gives the same pieces however it is cut. What looks like a call and is none stays
text: nothing that a model writes is lost, except the marks and the blanks around them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from rbee_worker.answer.bodies import begins, read_section, read_value
from rbee_worker.answer.kinds import Format, Section, Thinking
from rbee_worker.answer.schemas import Tool
from rbee_worker.answer.tape import END, Doing, Enough, Ids, Taking, Tape, automaton_of, merged
from rbee_worker.answer_parts import Part
from rbee_worker.types import Place


class Reader:
    """Reads one answer.

    thinking: the characters that come now are reasoning. full: another call began, and no more were
    wanted; whatever follows is dropped.
    """

    def __init__(
        self,
        form: Format,
        tools: Mapping[str, Tool],
        ids: Ids,
        *,
        place: Place = "start",
        most: int | None = None,
    ) -> None:
        """tools: those of the request; without any, no calls are looked for. place: where
        in an answer the prompt ends. most: calls that are wanted."""
        self.thinking = place == "reasoning"
        self._place = place
        self.full = False
        self._tape = Tape(ids, most)
        self._tools = tools
        self._form = form
        flow = self._sections if form.channels is None else self._messages
        self._flow = flow(form)
        next(self._flow)

    @property
    def held(self) -> int:
        """Visible characters that are neither given out nor used up yet."""
        return self._tape.held

    @property
    def calls(self) -> int:
        """Calls that have begun."""
        return self._tape.calls

    def push(self, text: str, *, hidden: bool = False) -> list[Part]:
        """Take the next characters; returns the pieces that they complete. hidden: they are those
        of a special token that is not shown."""
        tape = self._tape
        tape.hidden = hidden
        for char in text:
            if self.full:
                break
            try:
                self._flow.send(char)
            except Enough:
                self.full = True
                tape.raw.clear()
        return self._taken()

    def flush(self) -> list[Part]:
        """The answer ends here: the pieces that were held back."""
        if not self.full:
            with suppress(StopIteration, Enough):
                self._flow.send(None)
            self._tape.close()
        return self._taken()

    def _taken(self) -> list[Part]:
        pieces = list(merged(self._tape.pieces))
        self._tape.pieces.clear()
        return pieces

    # ---- marks in the text

    def _sections(self, form: Format) -> Doing:
        """An answer whose parts stand between marks."""
        tape, thinking = self._tape, form.thinking
        sections = form.tools.sections if form.tools is not None and self._tools else ()
        by_mark = {mark: s for s in sections for mark in s.opens}
        bare = next((s for s in sections if not s.opens), None)
        dropped = thinking.dropped if thinking is not None else ()
        opens = (thinking.opens,) if thinking is not None else ()
        marks = (*by_mark, *opens, *dropped)
        if self.thinking:
            assert thinking is not None
            yield from self._reasoning(thinking)
        while True:
            if bare is not None and not tape.said and not tape.calls:
                yield from self._bare(bare)
            mark = yield from self._shown("text", marks)
            if mark == END:
                return
            if mark in by_mark:
                yield from read_section(tape, by_mark[mark], self._tools)
            elif thinking is not None and mark == thinking.opens:
                tape.marked()
                yield from self._reasoning(thinking)
            else:
                tape.marked()

    def _reasoning(self, thinking: Thinking) -> Doing:
        self.thinking = True
        mark = yield from self._shown("reasoning", (thinking.closes,))
        self.thinking = False
        if mark != END:
            self._tape.marked()

    def _shown(self, kind: str, marks: tuple[str, ...]) -> Taking:
        """Give out text or reasoning up to the first of `marks`, which remains on the tape."""
        tape, automaton, node = self._tape, automaton_of(marks), 0
        while char := (yield from tape.take()):
            node = automaton.step(node, char)
            mark = automaton.match[node]
            if mark is not None:
                tape.release(kind, len(mark))
                return mark
            tape.release(kind, automaton.hold[node])
        tape.release(kind, 0)
        return END

    def _bare(self, section: Section) -> Doing:
        """The answer may begin with a call, without any mark."""
        char = yield from self._tape.unblank()
        self._tape.back()
        if char and begins(section.body, char):
            yield from read_section(self._tape, section, self._tools, bare=True)

    # ---- channels

    def _messages(self, form: Format) -> Doing:
        """An answer of several messages, each with a header."""
        tape, channels = self._tape, form.channels
        assert channels is not None
        ends = (channels.start, *channels.ends)
        if self._place == "start":
            mark = channels.start
        else:
            mark = yield from self._message(self._place, ends)
        while mark != END:
            header, mark = yield from tape.until((channels.message, *channels.ends))
            if mark == END:
                tape.give_back()
                return
            tape.settle()
            if mark != channels.message:
                continue
            name = channels.tool(header)
            if name and self._tools and not (yield from read_value(tape, name, ends)):
                mark = channels.start  # it was broken up to the end of its message
                continue
            kind = "reasoning" if channels.is_reasoning(header) and not name else "text"
            if kind == "text" and not name:
                tape.paragraph()
            mark = yield from self._message(kind, ends)

    def _message(self, kind: str, ends: tuple[str, ...]) -> Taking:
        """The rest of one message, and the mark that ends it."""
        self.thinking = kind == "reasoning"
        mark = yield from self._shown(kind, ends)
        self.thinking = False
        if mark != END:
            self._tape.marked()
        return mark
