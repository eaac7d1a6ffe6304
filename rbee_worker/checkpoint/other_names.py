"""A source whose tensors have other names, or of which only some are shown."""

from __future__ import annotations

from collections.abc import Mapping

from rbee_worker.checkpoint.formats import Packed, TensorInfo, TensorSource


class OtherNames:
    """A `TensorSource`. where: every name -> the name in `source`; what has none is hidden."""

    def __init__(self, source: TensorSource, where: Mapping[str, str]) -> None:
        self._source = source
        self._where = where

    def names(self) -> list[str]:
        """The other names."""
        return list(self._where)

    def info(self, name: str) -> TensorInfo:
        """See `TensorSource`."""
        return self._source.info(self._where[name])

    def read(self, name: str) -> Packed:
        """See `TensorSource`."""
        return self._source.read(self._where[name])

    def release(self) -> None:
        """See `TensorSource.release`."""
        self._source.release()
