"""Based, as its paper has it (Arora et al. 2024), in float64: features of a Taylor series and sums
of them, one token after another. It holds the oracle of `verify`, which computes all pairs of a
query and a key, and the configs that published files have.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.hf_config import read_config
from rbee_worker.models.base import Decoder
from tests.archs import Arch, oracle, write_checkpoint
from tests.archs.based import ARCHS
from tests.outlines import planned_model

Rows = Any  # float64 arrays of numpy
TOKENS = [int(t) for t in np.random.default_rng(3).integers(0, 211, 60)]


def silu(x: Rows) -> Rows:
    return x / (1 + np.exp(-x))


def rms(x: Rows, weight: Rows, eps: float) -> Rows:
    return x / np.sqrt((x**2).mean() + eps) * weight


def features(x: Rows) -> Rows:
    """Numbers of which f(q) f(k) = 1 + s + s^2 / 2 of s = q k / sqrt(size): section 4.1."""
    size = len(x)
    return np.concatenate(
        [[1.0], x / size**0.25, np.outer(x, x).ravel() / (np.sqrt(2) * np.sqrt(size))]
    )


class Based:
    """One sequence, token by token. weights: of a checkpoint, by name; c: its config."""

    def __init__(self, weights: dict[str, Rows], c: Any) -> None:
        self.w, self.c = weights, c
        self.kept: list[dict[str, Any]] = [{} for _ in range(c.n_layer)]
        self.position = 0

    def step(self, token: int) -> Rows:
        """The logits behind one more token."""
        w, eps = self.w, self.c.layer_norm_epsilon
        x = w["transformer.embeddings.word_embeddings.weight"][token]
        for n in range(self.c.n_layer):
            at = f"transformer.layers.{n}."
            normed = rms(x, w[f"{at}norm1.weight"], eps)
            if n in self.c.alt_mixer_2_layers:
                x = x + self.window(f"{at}mixer.", normed, self.kept[n])
            elif n in self.c.alt_mixer_layers:
                x = x + self.linear(f"{at}mixer.", normed, self.kept[n])
            else:
                x = x + self.conv(f"{at}mixer.", normed, self.kept[n])
            both = w[f"{at}mlp.fc1.weight"] @ rms(x, w[f"{at}norm2.weight"], eps)
            up, gate = np.split(both, 2)
            x = x + w[f"{at}mlp.fc2.weight"] @ (up * silu(gate))
        self.position += 1
        return w["lm_head.weight"] @ rms(x, w["transformer.ln_f.weight"], eps)

    def linear(self, at: str, x: Rows, kept: dict[str, Any]) -> Rows:
        heads = self.c.alt_mixer["num_heads"]
        q, k, v = ((self.w[f"{at}proj_{p}.weight"] @ x).reshape(heads, -1) for p in "qkv")
        out = []
        for h in range(heads):
            f, g = features(q[h]), features(k[h])
            kept[f"s{h}"] = kept.get(f"s{h}", 0) + np.outer(g, v[h])
            kept[f"z{h}"] = kept.get(f"z{h}", 0) + g
            out.append(f @ kept[f"s{h}"] / (f @ kept[f"z{h}"] + 1e-12))
        return self.w[f"{at}out_proj.weight"] @ np.concatenate(out)

    def window(self, at: str, x: Rows, kept: dict[str, Any]) -> Rows:
        c = self.c
        heads, kv = c.n_head, c.n_head_kv or c.n_head
        rows = (self.w[f"{at}Wqkv.weight"] @ x).reshape(heads + 2 * kv, -1)
        q, k = self.turned(rows[:heads]), self.turned(rows[heads : heads + kv])
        seen = kept.setdefault("seen", [])
        seen.append((k, rows[heads + kv :]))
        del seen[: -(c.alt_mixer_2["window_size"] // 2 + 1)]
        out = []
        for h in range(heads):
            own = h // (heads // kv)
            scores = np.array([q[h] @ key[own] for key, _ in seen]) / np.sqrt(len(q[h]))
            shares = np.exp(scores - scores.max())
            values = np.stack([value[own] for _, value in seen])
            out.append(shares @ values / shares.sum())
        return self.w[f"{at}out_proj.weight"] @ np.concatenate(out)

    def turned(self, x: Rows) -> Rows:
        """[heads, width], its pairs of columns turned by the position's angles."""
        y, count = x.copy(), int(x.shape[1] * self.c.rotary_emb_fraction)
        for i in range(count // 2):
            angle = self.position * self.c.rotary_emb_base ** (-2 * i / count)
            a, b = (2 * i, 2 * i + 1) if self.c.rotary_emb_interleaved else (i, i + count // 2)
            y[:, a] = x[:, a] * np.cos(angle) - x[:, b] * np.sin(angle)
            y[:, b] = x[:, b] * np.cos(angle) + x[:, a] * np.sin(angle)
        return y

    def conv(self, at: str, x: Rows, kept: dict[str, Any]) -> Rows:
        w, none = self.w, np.zeros(1)
        both = w[f"{at}in_proj.weight"] @ x + w.get(f"{at}in_proj.bias", none)
        u, gate = np.split(both, 2)
        taps = w[f"{at}conv.conv.weight"][:, 0]
        line = [*kept.get("line", [np.zeros(len(u))] * (taps.shape[1] - 1)), u]
        kept["line"] = line[1:]
        y = silu(sum(taps[:, n] * row for n, row in enumerate(line))) * gate
        return w[f"{at}out_proj.weight"] @ y + w.get(f"{at}out_proj.bias", none)


@pytest.mark.parametrize("arch", ARCHS, ids=[arch.id for arch in ARCHS])
def test_the_oracle_is_the_paper(arch: Arch) -> None:
    model = oracle(arch)
    weights = {name: t.double().numpy() for name, t in model.state_dict().items()}
    paper = Based(weights, model.config)
    want = np.stack([paper.step(token) for token in TOKENS])
    with torch.inference_mode():
        got = model(torch.tensor([TOKENS])).logits[0].double().numpy()
    assert np.abs(got - want).max() < 2e-5 * np.abs(want).max()


def planned(arch: Arch, folder: Path) -> Decoder:
    model, _ = planned_model(open_checkpoint(str(write_checkpoint(arch, folder))), "f32")
    return model


def test_a_published_file_says_gpt2(tmp_path: Path) -> None:
    model = planned(ARCHS[0], tmp_path)
    assert read_config(tmp_path / "config.json")[0] == "based"
    assert (model.context, model.vocab_size) == (256, 216)  # l_max; 211 in whole eights
    assert "used for both" in open_checkpoint(str(tmp_path)).notes[0]


def test_gpt2_itself_is_not_taken_for_it(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 211}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path / "config.json")[0] == "gpt2"
