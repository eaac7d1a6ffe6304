"""Tiny Moondreams: Phi of transformers around a tower in float64, and the files that are published.

transformers has no Moondream. Its text half is Phi; its tower is written here in the plainest form,
a head at a time and in float64, from the published tensors' names. tests/test_moondream.py holds it
to transformers' SigLIP.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PhiConfig, PhiForCausalLM

VISUAL, PROJECTION = "vision_encoder.encoder.model.visual", "vision_encoder.projection.mlp"
TEXT = "text_model.transformer"
COLOURS = 3


class Answer:
    """What transformers' models return, as far as the tests read it."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Moondream(nn.Module):
    """text: keys of Phi's config; vision: of SigLIP's, of which the tower has the same; place: the
    id behind which pictures stand; inside: what config.json calls the text model's part."""

    def __init__(
        self, text: Mapping[str, Any], vision: Mapping[str, Any], *, place: int, inside: str
    ) -> None:
        super().__init__()
        self.text, self.vision, self.place, self.inside = dict(text), dict(vision), place, inside
        self.phi = PhiForCausalLM(PhiConfig(**text))
        dim, size = vision["hidden_size"], vision["patch_size"]
        wide, inner = text["hidden_size"], vision["intermediate_size"]
        across = vision["image_size"] // size
        self.patch = nn.Linear(COLOURS * size * size, dim)
        self.pos_embed = nn.Parameter(torch.randn(1, across * across, dim))
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(dim),
                    "qkv": nn.Linear(dim, 3 * dim),
                    "proj": nn.Linear(dim, dim),
                    "norm2": nn.LayerNorm(dim),
                    "fc1": nn.Linear(dim, inner),
                    "fc2": nn.Linear(inner, dim),
                }
            )
            for _ in range(vision["num_hidden_layers"])
        )
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * wide)
        self.fc2 = nn.Linear(4 * wide, wide)

    def features(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [3, side, side] -> float64 [patches, width of the text model]."""
        size, side = self.vision["patch_size"], self.vision["image_size"]
        rows = [
            pixels[:, y : y + size, x : x + size].reshape(-1)
            for y in range(0, side, size)
            for x in range(0, side, size)
        ]
        x = _map(self.patch, torch.stack(rows).double()) + self.pos_embed[0].double()
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            x = x + self._attended(layer, _normed(layer["norm1"], x))
            x = x + _map(layer["fc2"], _gelu(_map(layer["fc1"], _normed(layer["norm2"], x))))
        x = _normed(self.norm, x)
        return _map(self.fc2, _gelu(_map(self.fc1, x)))

    def _attended(self, layer: nn.ModuleDict, x: Tensor) -> Tensor:
        heads = self.vision["num_attention_heads"]
        q, k, v = _map(layer["qkv"], x).chunk(3, dim=1)
        width = q.shape[1] // heads
        outs = []
        for head in range(heads):
            columns = slice(head * width, (head + 1) * width)
            scores = q[:, columns] @ k[:, columns].T / width**0.5
            weights = torch.exp(scores - scores.amax(1, keepdim=True))
            outs.append(weights / weights.sum(1, keepdim=True) @ v[:, columns])
        return _map(layer["proj"], torch.cat(outs, dim=1))

    def forward(self, input_ids: Tensor, pixel_values: Tensor | None = None) -> Answer:
        """input_ids [1, T]; pixel_values [1, tiles, 3, side, side]"""
        rows = self.phi.get_input_embeddings()(input_ids).clone()
        if pixel_values is not None:
            seen = torch.cat([self.features(one) for one in pixel_values[0]])
            rows[0, input_ids[0] == self.place] = seen.float()
        return Answer(self.phi(inputs_embeds=rows, use_cache=False).logits)

    def published(self) -> dict[str, Tensor]:
        """The tensors under the names of the authors' files."""
        out: dict[str, Tensor] = {}
        phi = self.phi.state_dict()
        for n in range(self.text["num_hidden_layers"]):
            old, new = f"model.layers.{n}", f"{TEXT}.h.{n}"
            for kind in ("weight", "bias"):
                parts = [phi[f"{old}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
                out[f"{new}.mixer.Wqkv.{kind}"] = torch.cat(parts)
                out[f"{new}.mixer.out_proj.{kind}"] = phi[f"{old}.self_attn.dense.{kind}"]
                out[f"{new}.ln.{kind}"] = phi[f"{old}.input_layernorm.{kind}"]
                for fc in ("fc1", "fc2"):
                    out[f"{new}.mlp.{fc}.{kind}"] = phi[f"{old}.mlp.{fc}.{kind}"]
        out[f"{TEXT}.embd.wte.weight"] = phi["model.embed_tokens.weight"]
        for kind in ("weight", "bias"):
            out[f"text_model.lm_head.ln.{kind}"] = phi[f"model.final_layernorm.{kind}"]
            out[f"text_model.lm_head.linear.{kind}"] = phi[f"lm_head.{kind}"]
        own = {
            f"{VISUAL}.patch_embed.linear": self.patch,
            f"{VISUAL}.norm": self.norm,
            f"{PROJECTION}.fc1": self.fc1,
            f"{PROJECTION}.fc2": self.fc2,
        }
        places = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
        for n, layer in enumerate(self.layers):
            assert isinstance(layer, nn.ModuleDict)
            own |= {f"{VISUAL}.blocks.{n}.{places.get(k, k)}": m for k, m in layer.items()}
        for name, module in own.items():
            out |= {f"{name}.{kind}": t for kind, t in module.state_dict().items()}
        out[f"{VISUAL}.pos_embed"] = self.pos_embed
        return {name: tensor.detach().contiguous() for name, tensor in out.items()}

    def save_pretrained(self, folder: Path) -> None:
        """Hugging Face's files. `vision_config` says the sizes, which are smaller than those that
        the authors' code has for every file."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.published(), folder / "model.safetensors", metadata={"format": "pt"})
        config = {
            "architectures": ["Moondream"],
            "model_type": "moondream1",
            self.inside: {"model_type": "phi", **self.text},
            "vision_config": self.vision,
            "torch_dtype": "float16",
        }
        (folder / "config.json").write_text(json.dumps(config))

    def write_tower(self, file: Path, changes: Mapping[str, Any]) -> None:
        """The file that the authors' script makes for llama.cpp: blocks with the two maps of their
        MLP under each other's names, and the last one twice."""
        v, tensors = self.vision, self.published()
        w = gguf.GGUFWriter(file, "clip")
        w.add_bool("clip.has_text_encoder", False)
        w.add_bool("clip.has_vision_encoder", True)
        w.add_bool("clip.has_llava_projector", True)
        w.add_string("clip.projector_type", changes.get("projector", "mlp"))
        w.add_uint32("clip.vision.image_size", v["image_size"])
        w.add_uint32("clip.vision.patch_size", v["patch_size"])
        w.add_uint32("clip.vision.embedding_length", v["hidden_size"])
        w.add_uint32("clip.vision.feed_forward_length", v["intermediate_size"])
        w.add_uint32(
            "clip.vision.projection_dim", changes.get("projection_dim", self.text["hidden_size"])
        )
        w.add_uint32("clip.vision.attention.head_count", v["num_attention_heads"])
        w.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
        w.add_uint32("clip.vision.block_count", v["num_hidden_layers"] + 1)
        w.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
        w.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
        w.add_bool("clip.use_gelu", True)
        add = _adder(w)
        for old, new in (("fc1", "mm.0"), ("fc2", "mm.2")):
            add(new, tensors, f"{PROJECTION}.{old}")
        w.add_tensor("v.position_embd.weight", tensors[f"{VISUAL}.pos_embed"].numpy())
        size = v["patch_size"]
        kernel = tensors[f"{VISUAL}.patch_embed.linear.weight"].numpy()
        w.add_tensor("v.patch_embd.weight", kernel.reshape(-1, COLOURS, size, size))
        w.add_tensor("v.patch_embd.bias", tensors[f"{VISUAL}.patch_embed.linear.bias"].numpy())
        add("v.post_ln", tensors, f"{VISUAL}.norm")
        if "class_embd" in changes:
            w.add_tensor("v.class_embd", np.zeros(v["hidden_size"], np.float32))
        last = v["num_hidden_layers"] - 1
        for n in range(last + 2):
            at, to = f"{VISUAL}.blocks.{min(n, last)}", f"v.blk.{n}"
            for kind in ("weight", "bias"):
                whole = tensors[f"{at}.attn.qkv.{kind}"].numpy()
                for part, rows in zip("qkv", np.split(whole, 3), strict=True):
                    w.add_tensor(f"{to}.attn_{part}.{kind}", rows)
            add(f"{to}.attn_out", tensors, f"{at}.attn.proj")
            add(f"{to}.ln1", tensors, f"{at}.norm1")
            add(f"{to}.ln2", tensors, f"{at}.norm2")
            add(f"{to}.ffn_down", tensors, f"{at}.mlp.fc1")
            add(f"{to}.ffn_up", tensors, f"{at}.mlp.fc2")
        close(w)

    def write_text(self, file: Path, *, ids: Mapping[str, int] | None = None, **more: Any) -> None:
        """The text model's file by the same script. more: metadata; ids: of the tokens `bos` and
        so on."""
        c, tensors = self.text, self.published()
        w = gguf.GGUFWriter(file, "phi2")
        w.add_context_length(c["max_position_embeddings"])
        w.add_embedding_length(c["hidden_size"])
        w.add_feed_forward_length(c["intermediate_size"])
        w.add_block_count(c["num_hidden_layers"])
        w.add_head_count(c["num_attention_heads"])
        w.add_head_count_kv(c["num_attention_heads"])
        w.add_layer_norm_eps(1e-5)
        width = c["hidden_size"] // c["num_attention_heads"]
        w.add_rope_dimension_count(int(width * c["partial_rotary_factor"]))
        w.add_add_bos_token(False)
        for key, value in more.items():
            w.add_string(key, value) if isinstance(value, str) else w.add_array(key, value)
        for key, token in (ids or {}).items():
            w.add_uint32(f"tokenizer.ggml.{key}_token_id", token)
        add = _adder(w)
        w.add_tensor("token_embd.weight", tensors[f"{TEXT}.embd.wte.weight"].numpy())
        for n in range(c["num_hidden_layers"]):
            at, to = f"{TEXT}.h.{n}", f"blk.{n}"
            for old, new in (
                ("ln", "attn_norm"),
                ("mixer.Wqkv", "attn_qkv"),
                ("mixer.out_proj", "attn_output"),
                ("mlp.fc1", "ffn_up"),
                ("mlp.fc2", "ffn_down"),
            ):
                add(f"{to}.{new}", tensors, f"{at}.{old}")
        add("output_norm", tensors, "text_model.lm_head.ln")
        add("output", tensors, "text_model.lm_head.linear")
        close(w)


def close(w: gguf.GGUFWriter) -> None:
    """Write everything down."""
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def _adder(w: gguf.GGUFWriter) -> Callable[[str, Mapping[str, Tensor], str], None]:
    def add(new: str, tensors: Mapping[str, Tensor], old: str) -> None:
        for kind in ("weight", "bias"):
            w.add_tensor(f"{new}.{kind}", tensors[f"{old}.{kind}"].numpy())

    return add


def _map(module: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(module, nn.Linear)
    return x @ module.weight.double().T + module.bias.double()


def _normed(module: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(module, nn.LayerNorm)
    x = x - x.mean(1, keepdim=True)
    x = x / torch.sqrt((x * x).mean(1, keepdim=True) + 1e-5)
    return x * module.weight.double() + module.bias.double()


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
