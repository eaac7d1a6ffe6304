"""Addresses of a sequence's fixed state, and its rows of a step."""

from __future__ import annotations

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import device
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr
from rbee_worker.ops.cpu.shared import step as header


@device
def kept_of(step: Ptr, group: Int, tensor: Int, layer: Int, slot_bytes: Int, q: Int) -> Ptr:
    """The address of a layer's tensor in the slot of sequence q. group, tensor: header offsets of
    the record with the sequences' slots and of the one with the tensor's address."""
    at = s.get_i64(step + tensor + header.STATE)
    at += layer * s.get_i64(step + tensor + header.STATE_LAYER)
    return at + slot_bytes * s.get_i64(s.get_i64(step + group + header.SLOTS) + 8 * q)


@device
def first_row(step: Ptr, q: Int) -> Int:
    """The first row of sequence q; that of q + 1 is its end."""
    return s.get_i64(s.get_i64(step + header.SEQ_STARTS) + 8 * q)
