"""What transformers makes of a picture: the oracle of a model's tower and of its connector.

Moondream's is SigLIP's with q, k and v in one map, and two maps behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.errors import UnsupportedModel
from rbee_worker.ops.reference.dequant import dequantize
from rbee_worker.verify.whole import F32

Tensors = dict[str, Tensor]
_HALF = (0.5, 0.5, 0.5)
_QKV = "qkv_proj."
# What the code of Moondream's authors has for every file.
_MOONDREAM: Mapping[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 378,
    "patch_size": 14,
    "layer_norm_eps": 1e-5,
}


def tower_features(ckpt: Checkpoint, tile: NDArray[np.uint8]) -> F32:
    """The rows [rows, dim] that stand in the place of a tile of pixels [side, side, 3], in float32.

    Raises UnsupportedModel if the checkpoint has no tower, or not all of one.
    """
    if ckpt.arch not in _TOWERS:
        raise UnsupportedModel(
            f"{ckpt.ref}: has no tower to compare pictures with.",
            fix="give --against a checkpoint that reads pictures, or --mmproj none.",
        )
    mean, std = (ckpt.config.get(f"image_{name}") or _HALF for name in ("mean", "std"))
    numbers = torch.from_numpy(tile.astype(np.float32)) / 255
    pixels = ((numbers - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1).float()
    with torch.inference_mode():
        rows: Tensor = _TOWERS[ckpt.arch](ckpt, pixels[None])[0]
    found: F32 = rows.float().numpy()
    return found


def _idefics3(ckpt: Checkpoint, pixels: Tensor) -> Tensor:
    from transformers.models.idefics3 import modeling_idefics3 as hf
    from transformers.models.idefics3.configuration_idefics3 import Idefics3Config

    c = _whole(Idefics3Config, ckpt, ("scale_factor",))
    return _two(ckpt, hf.Idefics3VisionTransformer, hf.Idefics3Connector, c, pixels)


def _smolvlm(ckpt: Checkpoint, pixels: Tensor) -> Tensor:
    from transformers.models.smolvlm import modeling_smolvlm as hf
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMConfig

    c = _whole(SmolVLMConfig, ckpt, ("scale_factor",))
    return _two(ckpt, hf.SmolVLMVisionTransformer, hf.SmolVLMConnector, c, pixels)


def _two(ckpt: Checkpoint, tower: Any, connector: Any, config: Any, pixels: Tensor) -> Tensor:
    """Idefics 3's two modules."""
    rows = _loaded(ckpt, tower(config.vision_config), "vision_model.")(pixels).last_hidden_state
    joined: Tensor = _loaded(ckpt, connector(config), "connector.")(rows)
    return joined


def _gemma3(ckpt: Checkpoint, pixels: Tensor) -> Tensor:
    from transformers import Gemma3Config, SiglipVisionModel
    from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector

    c: Any = _whole(Gemma3Config, ckpt, ("mm_tokens_per_image",))
    c.vision_config.vision_use_head = False
    rows = _loaded(ckpt, SiglipVisionModel(c.vision_config), "vision_tower.")(pixels)
    connector = _loaded(ckpt, Gemma3MultiModalProjector(c), "multi_modal_projector.")
    joined: Tensor = connector(rows.last_hidden_state)
    return joined


def _moondream(ckpt: Checkpoint, pixels: Tensor) -> Tensor:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    said = ckpt.config.get("vision_config") or {}
    c = SiglipVisionConfig(**{**_MOONDREAM, **said, "vision_use_head": False})
    rows = _loaded(ckpt, SiglipVisionModel(c), "vision_tower.")(pixels).last_hidden_state
    first, second = (_tensors(ckpt, f"projection.mlp.fc{n}.") for n in (1, 2))
    bent = nn.functional.gelu(rows @ first["weight"].T + first["bias"], approximate="tanh")
    return bent @ second["weight"].T + second["bias"]


def _whole(kind: Any, ckpt: Checkpoint, keys: tuple[str, ...]) -> Any:
    """transformers' config of a model and its tower, as far as the tower reads it."""
    said = {key: ckpt.config[key] for key in keys if ckpt.config.get(key) is not None}
    text = {"hidden_size": ckpt.config["hidden_size"]}
    vision = ckpt.config.get("vision_config") or {}
    return kind(vision_config=vision, text_config=text, **said)


def _loaded(ckpt: Checkpoint, module: nn.Module, prefix: str) -> Any:
    """A module of transformers with the checkpoint's tensors."""
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    found = _tensors(ckpt, prefix)
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise UnsupportedModel(
            f"{ckpt.path}: lacks {len(missing)} tensors of transformers' tower, such as "
            f"{prefix}{missing[0]}.",
            fix="compare with the original directory: --against DIR.",
        )
    module.load_state_dict({name: found[name].reshape(shape) for name, shape in wanted.items()})
    return module.eval()


def _tensors(ckpt: Checkpoint, prefix: str) -> Tensors:
    """The float32 tensors below a prefix; q, k and v each by itself."""
    out: Tensors = {}
    for name in ckpt.source.names():
        if not name.startswith(prefix):
            continue
        shape, rest = ckpt.source.info(name).shape, name.removeprefix(prefix)
        tensor = dequantize(ckpt.source.read(name)).float().reshape(shape)
        if _QKV not in rest:
            out[rest] = tensor
            continue
        for part, rows in zip("qkv", tensor.chunk(3), strict=True):
            out[rest.replace(_QKV, f"{part}_proj.")] = rows
    return out


_TOWERS: Mapping[str, Callable[[Checkpoint, Tensor], Tensor]] = {
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "gemma3_text": _gemma3,
    "moondream1": _moondream,
}
