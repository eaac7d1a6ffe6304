"""Based as a transformers model, which transformers does not have: an oracle for `verify`.

Written from the paper (Arora et al. 2024) with the names of the published checkpoints and nothing
of `layers` or `ops`. Mixers keep all rows that they were given and compute all of them anew, in
float64, every pair of a query and a key by itself; all else is in the dtype of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.generic import ModelOutput

from rbee_worker.verify.based_config import BasedConfig

State = dict[str, Tensor]  # of one layer; empty before the first token


def matrix(rows: int, cols: int, *, bias: bool = False) -> nn.Linear:
    """A linear map from `cols` to `rows` columns."""
    return nn.Linear(cols, rows, bias=bias)


class Mixer(nn.Module):
    """What makes a row of those up to it; `whole` has the rows of a sequence from its first on."""

    def forward(self, x: Tensor, state: State) -> Tensor:
        count = x.shape[1]
        state["x"] = torch.cat([state["x"], x], dim=1) if "x" in state else x
        return self.over(state["x"])[:, -count:]

    def over(self, whole: Tensor) -> Tensor:
        """[B, T, dim] -> [B, T, dim]"""
        raise NotImplementedError


class LinearAttention(Mixer):
    """Weights 1 + x + x^2 / 2 of the scores x, divided by their sum."""

    def __init__(self, c: BasedConfig) -> None:
        super().__init__()
        said = c.alt_mixer or {}
        self.heads, self.size = said.get("num_heads", 16), said.get("feature_dim", 16)
        width = self.heads * (said.get("head_dim") or c.n_embd // self.heads)
        self.proj_q = matrix(self.heads * self.size, c.n_embd)
        self.proj_k = matrix(self.heads * self.size, c.n_embd)
        self.proj_v = matrix(width, c.n_embd)
        self.out_proj = matrix(c.n_embd, width)

    def over(self, whole: Tensor) -> Tensor:
        """See `Mixer.over`."""
        maps = (self.proj_q, self.proj_k, self.proj_v)
        q, k, v = (by_head(one(whole), self.heads) for one in maps)
        x = torch.einsum("bthn,bshn->bhts", q, k) / self.size**0.5
        weights = torch.tril(1 + x + x**2 / 2)
        weights = weights / weights.sum(-1, keepdim=True)
        y = torch.einsum("bhts,bshn->bthn", weights, v).flatten(2)
        return self.out_proj(y.to(whole.dtype))  # type: ignore[no-any-return]


class SlidingAttention(Mixer):
    """Softmax attention over the `window_size` / 2 rows before a row, and itself."""

    def __init__(self, c: BasedConfig) -> None:
        super().__init__()
        self.heads, self.keys = c.n_head, c.n_head_kv or c.n_head
        self.before = (c.alt_mixer_2 or {}).get("window_size", 128) // 2
        width = c.n_embd // c.n_head
        self.rotary, self.base = int(c.rotary_emb_fraction * width), c.rotary_emb_base
        self.neighbours = c.rotary_emb_interleaved
        self.Wqkv = matrix(width * (self.heads + 2 * self.keys), c.n_embd)
        self.out_proj = matrix(c.n_embd, c.n_embd)

    def over(self, whole: Tensor) -> Tensor:
        """See `Mixer.over`."""
        rows = by_head(self.Wqkv(whole), self.heads + 2 * self.keys)
        q, k, v = torch.split(rows, [self.heads, self.keys, self.keys], dim=2)
        q, k = self._turned(q), self._turned(k)
        k, v = (t.repeat_interleave(self.heads // self.keys, 2) for t in (k, v))
        scores = torch.einsum("bthn,bshn->bhts", q, k) / q.shape[-1] ** 0.5
        at = torch.arange(whole.shape[1], device=whole.device)
        ago = at[:, None] - at
        scores = scores.masked_fill((ago < 0) | (ago > self.before), -torch.inf)
        y = torch.einsum("bhts,bshn->bthn", scores.softmax(-1), v).flatten(2)
        return self.out_proj(y.to(whole.dtype))  # type: ignore[no-any-return]

    def _turned(self, x: Tensor) -> Tensor:
        """Pairs of the first `rotary` columns, rotated by their angles: [B, T, heads, width]"""
        if not self.rotary:
            return x
        pairs = self.rotary // 2
        rates = self.base ** (-torch.arange(pairs, dtype=torch.float64, device=x.device) / pairs)
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * rates
        turn = torch.polar(torch.ones_like(angles), angles)[:, None]
        part, rest = x[..., : self.rotary], x[..., self.rotary :]
        if self.neighbours:
            both = torch.view_as_complex(part.reshape(*part.shape[:-1], pairs, 2)) * turn
            return torch.cat([torch.view_as_real(both).flatten(-2), rest], dim=-1)
        both = torch.complex(*part.chunk(2, dim=-1)) * turn
        return torch.cat([both.real, both.imag, rest], dim=-1)


class ShortConvolution(nn.Module):
    """The weights of a convolution along a sequence, each column by itself."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, rows, groups=width, bias=False)


class BaseConv(Mixer):
    """A convolution over the last few rows, times a gate."""

    def __init__(self, c: BasedConfig) -> None:
        super().__init__()
        said = c.mixer or {}
        bias, self.rows = said.get("use_bias", True), said.get("kernel_size", 3)
        self.width = said.get("expand_proj", 2) * c.n_embd // 2
        self.in_proj = matrix(2 * self.width, c.n_embd, bias=bias)
        self.out_proj = matrix(c.n_embd, self.width, bias=bias)
        self.conv = ShortConvolution(self.width, self.rows)

    def over(self, whole: Tensor) -> Tensor:
        """See `Mixer.over`."""
        x, gate = self.in_proj(whole).double().split(self.width, dim=-1)
        taps, count = self.conv.conv.weight.double()[:, 0], whole.shape[1]
        padded = F.pad(x, (0, 0, self.rows - 1, 0))
        y = torch.zeros_like(x)
        for n in range(self.rows):
            y = y + padded[:, n : n + count] * taps[:, n]
        return self.out_proj((F.silu(y) * gate).to(whole.dtype))  # type: ignore[no-any-return]


class GatedMlp(nn.Module):
    """Columns in whole multiples of 256; the gate's behind the others."""

    def __init__(self, c: BasedConfig) -> None:
        super().__init__()
        inner = 256 * -(-c.n_inner // 256)
        self.fc1, self.fc2 = matrix(2 * inner, c.n_embd), matrix(c.n_embd, inner)

    def forward(self, x: Tensor) -> Tensor:
        up, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(up * F.silu(gate))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A layer: its mixer is linear attention, attention in a window, or a convolution."""

    def __init__(self, c: BasedConfig, number: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.RMSNorm(c.n_embd, c.layer_norm_epsilon) for _ in range(2))
        if number in (c.alt_mixer_2_layers or []):
            self.mixer: Mixer = SlidingAttention(c)
        elif number in (c.alt_mixer_layers or []):
            self.mixer = LinearAttention(c)
        else:
            self.mixer = BaseConv(c)
        self.mlp = GatedMlp(c)

    def forward(self, x: Tensor, state: State) -> Tensor:
        x = x + self.mixer(self.norm1(x), state)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


@dataclass
class Output(ModelOutput):
    """logits [B, T, vocab]; cache: the state of each layer."""

    logits: Tensor | None = None
    cache: list[State] | None = None


class _Embeddings(nn.Module):
    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(rows, width)


class _Body(nn.Module):
    def __init__(self, c: BasedConfig, rows: int) -> None:
        super().__init__()
        self.embeddings = _Embeddings(rows, c.n_embd)
        self.layers = nn.ModuleList(Block(c, n) for n in range(c.n_layer))
        self.ln_f = nn.RMSNorm(c.n_embd, c.layer_norm_epsilon)


class BasedForCausalLM(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Based under the names of hazyresearch/based-360m."""

    config_class = BasedConfig
    base_model_prefix = "transformer"
    _tied_weights_keys = {"lm_head.weight": "transformer.embeddings.word_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: BasedConfig) -> None:
        super().__init__(config)
        multiple = config.pad_vocab_size_multiple
        rows = multiple * -(-config.vocab_size // multiple)
        self.transformer = _Body(config, rows)
        self.lm_head = matrix(rows, config.n_embd)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        found: nn.Module = self.transformer.embeddings.word_embeddings
        return found

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = self.lm_head
        return head

    def _init_weights(self, module: nn.Module) -> None:
        """Weights are random from the start: matrices with transformers' deviation."""
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(std=0.02)

    def forward(
        self,
        input_ids: Tensor,
        cache: list[State] | None = None,
        use_cache: bool | None = None,
    ) -> Output:
        body = self.transformer
        states: list[State] = cache or [{} for _ in body.layers]
        x = body.embeddings.word_embeddings(input_ids)
        for block, state in zip(body.layers, states, strict=True):
            x = block(x, state)
        return Output(self.lm_head(body.ln_f(x)), states)


def by_head(x: Tensor, heads: int) -> Tensor:
    """[B, T, heads * width] as float64 [B, T, heads, width]"""
    return x.double().view(*x.shape[:-1], heads, -1)


MODELS = ((BasedConfig, BasedForCausalLM),)


def register() -> None:
    """Make transformers know it by its `model_type`."""
    AutoConfig.register("based", BasedConfig, exist_ok=True)
    AutoModelForCausalLM.register(BasedConfig, BasedForCausalLM, exist_ok=True)
