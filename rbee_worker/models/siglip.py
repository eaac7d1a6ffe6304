"""SigLIP's transformer of patches (Zhai et al. 2023), as several families use it as their tower.

Learned positions, a layer norm before each half, biases, a last layer norm, no causality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.blocks import PreNorm
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.mlp import PlainMLP
from rbee_worker.models import encoder
from rbee_worker.models.config import activation, positive, read_config
from rbee_worker.models.tower import Connector, Tower
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Weight
from rbee_worker.state.specs import COLOURS

HALF = (0.5,) * COLOURS  # mean and standard deviation of files that give none
UNSEEN = "pictures are not read by this backend"
_IDLE = frozenset(  # of the pre-processor, of training, or of a head that these models have not
    ("size", "max_image_size", "use_base_siglip", "vision_use_head", "projector_hidden_act")
)


@dataclass(frozen=True, kw_only=True)
class Vision:
    """The keys of `vision_config`, with SigLIP's own defaults."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 16
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6

    @property
    def head_width(self) -> int:
        """The width of one head, in columns."""
        return self.hidden_size // self.num_attention_heads


V = TypeVar("V", bound=Vision)


def read_vision(cls: type[V], given: Mapping[str, Any]) -> tuple[V, tuple[str, ...]]:
    """A model's `vision_config`, and a note on what nothing reads. Raises CheckpointError,
    UnsupportedModel."""
    c, unused = read_config(cls, given, where="config: vision_config")
    positive(
        "config: vision_config",
        hidden=c.hidden_size,
        inner=c.intermediate_size,
        layers=c.num_hidden_layers,
        heads=c.num_attention_heads,
        image=c.image_size,
        patch=c.patch_size,
    )
    if c.hidden_size % c.num_attention_heads:
        raise CheckpointError(
            f"config: vision_config: {c.num_attention_heads} heads do not divide {c.hidden_size} "
            "columns.",
            fix="download the checkpoint's config again.",
        )
    if c.num_channels != COLOURS:
        raise UnsupportedModel(
            f"config: vision_config: num_channels is {c.num_channels}.",
            fix="use a model that reads pictures of three colours.",
        )
    left = sorted(set(unused) - _IDLE)
    return c, (f"vision_config keys that nothing reads: {', '.join(left)}",) if left else ()


def check_squares(c: Vision, merge: int) -> None:
    """Raise CheckpointError unless a tile has whole patches, and these are cut into squares of
    `merge` by `merge`. What is left of a tile at its right and below, less than a patch, is not
    read, as by SmolVLM's 14 pixels of 384."""
    across = c.image_size // c.patch_size
    if across < 1 or merge < 1 or across % merge:
        raise CheckpointError(
            f"config: a picture of {c.image_size} pixels cannot be cut into patches of "
            f"{c.patch_size}, and these into squares of {merge}.",
            fix="download the checkpoint's config again.",
        )


def colours(given: Sequence[float] | None, name: str) -> tuple[float, ...]:
    """The mean or the deviation of each colour, as a file gives it. Raises CheckpointError."""
    if given is None:
        return HALF
    numbers = [n for n in given if isinstance(n, int | float) and not isinstance(n, bool)]
    if len(numbers) != COLOURS or len(given) != COLOURS or (name == "image_std" and 0 in numbers):
        raise CheckpointError(
            f"{name} is {str(given)[:60]}, not a number for each of three colours.",
            fix="download preprocessor_config.json again.",
        )
    return tuple(float(n) for n in numbers)


def tower(
    w: Weights,
    c: Vision,
    connector: Connector,
    *,
    merge: int,
    width: int,
    mean: tuple[float, ...] = HALF,
    std: tuple[float, ...] = HALF,
    whole: bool = False,
) -> Tower:
    """The tower at the cursor, which is `beside` the text model. Others: see `Tower`."""
    dim, eps = c.hidden_size, c.layer_norm_eps
    tables = w.sub("embeddings")

    def block(at: Weights) -> PreNorm:
        mix = at.sub("self_attn")
        maps = "qkv_proj" if mix.has("qkv_proj.weight") else ("q_proj", "k_proj", "v_proj")
        return PreNorm(
            ops=w.ops,
            attention_norm=at.layer_norm("layer_norm1", dim, eps),
            attention=encoder.attention(mix, c, maps, "out_proj", bias=True),
            mlp_norm=at.layer_norm("layer_norm2", dim, eps),
            mlp=PlainMLP(
                ops=w.ops,
                up=at.linear("mlp.fc1", dim, c.intermediate_size, bias=True),
                down=at.linear("mlp.fc2", c.intermediate_size, dim, bias=True),
                act=activation(c.hidden_act),
            ),
        )

    return Tower(
        ops=w.ops,
        patch=patch_map(tables, "patch_embedding", c),
        positions=_positions(tables, "position_embedding.weight", c),
        blocks=[block(at) for at in w.layers("encoder.layers", c.num_hidden_layers)],
        norm=w.layer_norm("post_layernorm", dim, eps),
        connector=connector,
        groups=w.states.groups,
        side=c.image_size,
        patch_size=c.patch_size,
        merge=merge,
        width=width,
        mean=mean,
        std=std,
        whole=whole,
    )


def _positions(w: Weights, name: str, c: Vision) -> Weight:
    """The table of positions, which some files have as that of a batch of one."""
    rows, dim = (c.image_size // c.patch_size) ** 2, c.hidden_size
    batched = (1, rows, dim)
    if len(w.shape_of(name)) != len(batched):
        return w.matrix(name, rows, dim)
    table = w.packed(name, batched)
    return w.ops.matrix([Packed(table.data.reshape(rows, -1), table.format, (rows, dim))])


def patch_map(w: Weights, name: str, c: Vision) -> Linear:
    """A convolution whose windows do not overlap, as a linear map of each window's numbers; some
    files have it as that."""
    size, dim = c.patch_size, c.hidden_size
    columns = COLOURS * size * size
    if len(w.shape_of(f"{name}.weight")) == 2:
        return w.linear(name, columns, dim, bias=True)
    kernel = w.packed(f"{name}.weight", (dim, COLOURS, size, size))
    flat = Packed(kernel.data.reshape(dim, -1), kernel.format, (dim, columns))
    bias = w.ops.vector([w.packed(f"{name}.bias", (dim,))])
    return Linear(w.ops, w.ops.matrix([flat]), bias, (dim,))
