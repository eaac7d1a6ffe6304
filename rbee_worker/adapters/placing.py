"""An adapter meets a model: every factor finds its linear map, or the adapter is refused."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee_worker.adapters.adapter import Adapter, LowRank
from rbee_worker.checkpoint.decoding import decode
from rbee_worker.checkpoint.formats import Packed, TensorSource
from rbee_worker.errors import AdapterError
from rbee_worker.ops.adapted import NUMPY, Factors, Form, Placed, Site, Sites, factor_bytes, held

_FORMS: dict[str, Form] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_DIGEST = 16  # bytes


def place(adapter: Adapter, sites: Sites, base: TensorSource) -> Placed:
    """The adapter's factors by site. base: the model's tensors, for messages.

    Raises AdapterError, which names the tensor, unless all of it fits the model.
    """
    found: dict[int, list[Factors | None]] = {}
    for part, site, number in _matched(adapter, sites, base):
        factors = found.setdefault(site.number, [None] * len(site.parts))
        if factors[number] is not None:
            raise AdapterError(f"{adapter.path}: two tensors are for {site.parts[number].name!r}.")
        factors[number] = _factors(adapter, part)
    return {site: tuple(factors) for site, factors in found.items()}


def planned_bytes(adapter: Adapter, sites: Sites, base: TensorSource) -> int:
    """The adapter's size in memory, without reading it. Raises as `place`."""
    return sum(
        factor_bytes(part.a.shape[0], site.cols, site.parts[number].rows, _form(part))
        for part, site, number in _matched(adapter, sites, base)
    )


def digest(placed: Placed) -> str:
    """A name for what an adapter computes: equal only for equal factors at equal places."""
    told = blake2b(digest_size=_DIGEST)
    for site, factors in sorted(placed.items()):
        for number, one in enumerate(factors):
            if one is not None:
                told.update(f"{site}/{number}/{one.rank}/{one.form}/{one.scale!r}".encode())
                told.update(one.a.tobytes() + one.b.tobytes())
    return told.hexdigest()


def _matched(
    adapter: Adapter, sites: Sites, base: TensorSource
) -> Iterator[tuple[LowRank, Site, int]]:
    """Each part with its site and the number of its map there, shapes checked."""
    places = {part.name: (site, n) for site in sites for n, part in enumerate(site.parts)}
    tensors = frozenset(base.names())
    for part in adapter.parts:
        module = next((name for name in part.modules if name in places), None)
        if module is None:
            raise _homeless(adapter, part, tensors)
        site, number = places[module]
        _check_shapes(adapter, part, site, number, sites.rank)
        yield part, site, number


def _homeless(adapter: Adapter, part: LowRank, tensors: frozenset[str]) -> AdapterError:
    """Why a part has no place."""
    for name in part.modules:
        if f"{name}.weight" in tensors:
            return AdapterError(
                f"{adapter.path}: tensor {part.tensor!r}: embeddings, output heads, experts and "
                "convolutions take no adapter here.",
                fix="train it for other linear maps, or merge it into its base",
            )
    trained = f" (it was trained on {adapter.base!r})" if adapter.base else ""
    return AdapterError(
        f"{adapter.path}: tensor {part.tensor!r} changes a map that this model does not "
        f"have{trained}."
    )


def _check_shapes(adapter: Adapter, part: LowRank, site: Site, number: int, most: int) -> None:
    rank, rows = part.a.shape[0], site.parts[number].rows
    expected = {"A": (rank, site.cols), "B": (rows, rank)}
    for which, packed in (("A", part.a), ("B", part.b)):
        if packed.shape != expected[which]:
            raise AdapterError(
                f"{adapter.path}: tensor {part.tensor!r}: factor {which} is {list(packed.shape)}, "
                f"but this model's map takes {list(expected[which])}."
            )
    if rank > most:
        raise AdapterError(
            f"{adapter.path}: tensor {part.tensor!r} has rank {rank}, more than --lora-rank.",
            fix=f"start with --lora-rank {rank}",
        )


def _form(part: LowRank) -> Form:
    """The form that both factors are held in: their own if it is one that kernels read."""
    if part.a.format != part.b.format:
        return "f32"
    return _FORMS.get(part.a.format, "f32")


def _factors(adapter: Adapter, part: LowRank) -> Factors:
    form = _form(part)
    a, b = _numbers(part.a, form), _numbers(part.b, form)
    if not (_finite(a, form) and _finite(b, form)):
        raise AdapterError(
            f"{adapter.path}: tensor {part.tensor!r} or its other factor has numbers that are not "
            "finite.",
            fix="fetch the adapter again",
        )
    return held(a, b, part.scale, form)


def _numbers(packed: Packed, form: Form) -> NDArray[Any]:
    if _FORMS.get(packed.format) == form:
        rows = np.ascontiguousarray(packed.data).view(NUMPY[form])
        return rows.reshape(packed.shape)
    return decode(packed)


def _finite(numbers: NDArray[Any], form: Form) -> bool:
    if form == "bf16":
        return not bool(((numbers & 0x7F80) == 0x7F80).any())
    return bool(np.isfinite(numbers).all())
