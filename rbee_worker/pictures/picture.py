"""`Picture`: what the engine gets of one picture in a prompt."""

from __future__ import annotations

import hashlib

from msgspec import Struct


class Picture(Struct, frozen=True, kw_only=True):
    """One picture of a prompt, as the model's processor cuts and resizes it.

    pixels: uint8, in C order [tiles, height, width, 3], red first, not normalised: the model does
    that. shape: (tiles, height, width). places: runs (first position, count)
    of its placeholders in the prompt; in order they take the tower's rows, tile by tile. digest:
    blake2b-128 of shape and pixels, by which prompts with equal ids are told apart.
    """

    pixels: bytes
    shape: tuple[int, int, int]
    places: tuple[tuple[int, int], ...]
    digest: bytes


def picture(
    pixels: bytes, shape: tuple[int, int, int], places: tuple[tuple[int, int], ...]
) -> Picture:
    """A picture with its digest."""
    tiles, height, width = shape
    assert len(pixels) == tiles * height * width * 3, (len(pixels), shape)
    return Picture(pixels=pixels, shape=shape, places=places, digest=digest_of(pixels, shape))


def digest_of(pixels: bytes, shape: tuple[int, int, int]) -> bytes:
    """blake2b-128 of the shape, as text, and the pixels."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr(tuple(shape)).encode())
    digest.update(pixels)
    return digest.digest()
