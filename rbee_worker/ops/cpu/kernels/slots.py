"""Where a sequence's fixed state lies, and which rows of a step are its own."""

from __future__ import annotations

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import device
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr
from rbee_worker.ops.cpu.shared import step as header


@device
def kept_of(step: Ptr, group: Int, tensor: Int, layer: Int, slot_bytes: Int, q: Int) -> Ptr:
    """A tensor of a layer in the slot of sequence q. group, tensor: offsets in the header, of the
    record with the sequences' slots and of the one with the tensor's address."""
    at = s.get_i64(step + tensor + header.STATE)
    at += layer * s.get_i64(step + tensor + header.STATE_LAYER)
    return at + slot_bytes * s.get_i64(s.get_i64(step + group + header.SLOTS) + 8 * q)


@device
def first_row(step: Ptr, q: Int) -> Int:
    """The first row of sequence q; that of q + 1 is its end."""
    return s.get_i64(s.get_i64(step + header.SEQ_STARTS) + 8 * q)
