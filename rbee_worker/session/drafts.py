"""The model that drafts, while engines come and go. No token depends on drafts, so an engine that
takes another's place does without that model where its files are not what they were."""

from __future__ import annotations

from pathlib import Path

import msgspec

from rbee_worker.checkpoint.weight_files import stamp
from rbee_worker.config import Settings
from rbee_worker.model_info import ModelInfo
from rbee_worker.observe import log

_log = log.logger("drafts")
_NOTE = "nothing is drafted any more"


class Drafts:
    """lost: why no engine has the draft model any more, or why the engine that runs drafts nothing;
    "" as long as everything is as the settings say."""

    def __init__(self) -> None:
        self.lost = ""
        self._for_good = False
        self._path: Path | None = None
        self._stamp: tuple[tuple[str, int, int], ...] = ()

    def found(self, path: str) -> None:
        """Where the draft model is, before an engine reads it."""
        self._path = Path(path)
        self._stamp = stamp(self._path)

    def settings(self, settings: Settings) -> Settings:
        """The settings of the next engine: with the files that the first one read, or none."""
        if not self._for_good:
            self.lost = ""  # what failed in the engine that is gone need not fail in this one
        if self._path is not None and not self._for_good and stamp(self._path) != self._stamp:
            there = "have changed since they were read" if self._path.exists() else "are gone"
            self.give_up(f"the files of the draft model {there}")
        if self._for_good:
            return msgspec.structs.replace(settings, draft_model="")
        if self._path is not None:
            return msgspec.structs.replace(settings, draft_model=str(self._path))
        return settings

    def give_up(self, why: str) -> None:
        """No engine will have the draft model any more."""
        self._for_good = True
        self.fail(why)

    def fail(self, why: str) -> None:
        """The engine that runs drafts nothing any more, or the next one will not."""
        self.lost = why.rstrip(".")
        _log.error("%s: %s", _NOTE, self.lost)

    def told(self, info: ModelInfo) -> ModelInfo:
        """A model's description, as drafts are now."""
        if self.lost:
            return without_drafts(info, self.lost)
        return msgspec.structs.replace(info, notes=_other_notes(info))


def without_drafts(info: ModelInfo, why: str) -> ModelInfo:
    """The description of a model for which nothing is drafted any more."""
    note = f"{_NOTE}: {why}; answers are the same without drafts"
    notes = (*_other_notes(info), note)
    return msgspec.structs.replace(info, speculate="off", draft_model="", notes=notes)


def _other_notes(info: ModelInfo) -> tuple[str, ...]:
    return tuple(note for note in info.notes if not note.startswith(_NOTE))
