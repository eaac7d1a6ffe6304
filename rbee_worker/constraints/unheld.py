"""The error of a constraint that cannot be held."""

from __future__ import annotations


class Unheld(Exception):
    """Why a constraint cannot be held. pointer: the place in a JSON Schema, as a JSON pointer."""

    def __init__(self, message: str, pointer: str) -> None:
        self.message, self.pointer = message, pointer
        super().__init__(message)
