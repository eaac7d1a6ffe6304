"""`EncoderDecoder`: an encoder reads the prompt once, and the decoder's layers look at its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rbee_worker.layers.cross_attention import CrossAttention
from rbee_worker.models.base import Decoder
from rbee_worker.models.block import Block
from rbee_worker.ops.batch import Array, Batch


@dataclass(frozen=True, kw_only=True)
class EncoderDecoder(Decoder):
    """A decoder (`Decoder`) with the encoder of its prompts.

    encoder: the encoder's blocks; encoder_norm: applied to the last one's output; crosses: the
    cross-attention of every decoder block, which makes its keys and values of that.
    """

    encoder: Sequence[Block]
    encoder_norm: Callable[[Array], Array]
    crosses: Sequence[CrossAttention]

    def encode(self, batch: Batch) -> Array:
        """See `Decoder.encode`."""
        x = self.embedded(batch)
        for block in self.encoder:
            x = block(x, batch)
        return self.keep(x, batch)

    @property
    def readers(self) -> Sequence[Block]:
        """See `Decoder.readers`."""
        return self.encoder

    def keep(self, x: Array, batch: Batch) -> Array:
        """See `Decoder.keep`."""
        x = self.encoder_norm(x)
        for cross in self.crosses:
            cross.read(x, batch)
        return x
