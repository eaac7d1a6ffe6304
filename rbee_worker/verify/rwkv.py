"""RWKV 5, 6 and 7 as transformers models, which transformers does not have: oracles for `verify`.

Written from the papers (Peng et al. 2024, 2025), one token after another, with the names of the
published checkpoints and nothing of `layers` or `ops`. A test holds them to the authors' package
`rwkv`. Recurrences are computed in float64, all else in the dtype of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from rbee_worker.verify.rwkv_config import Rwkv5Config, Rwkv6Config, Rwkv7Config
from rbee_worker.verify.rwkv_mixing import (
    Attention5,
    Attention6,
    Attention7,
    FeedForward,
    FeedForward7,
    State,
    matrix,
)


class Block(nn.Module):
    """A layer of RWKV 5 or 6."""

    def __init__(self, c: Rwkv5Config, number: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = (nn.LayerNorm(c.hidden_size, c.layer_norm_epsilon) for _ in range(2))
        if number == 0:
            self.pre_ln = nn.LayerNorm(c.hidden_size, c.layer_norm_epsilon)
        self.first = number == 0
        if isinstance(c, Rwkv6Config):
            self.attention: nn.Module = Attention6(c)
            self.feed_forward = FeedForward(c, "time_maa", ("k", "r"), back=True)
        else:
            self.attention = Attention5(c)
            self.feed_forward = FeedForward(c, "time_mix", ("key", "receptance"), back=False)

    def forward(self, x: Tensor, state: State) -> Tensor:
        x = self.pre_ln(x) if self.first else x
        x = x + self.attention(self.ln1(x), state)
        return x + self.feed_forward(self.ln2(x), state)  # type: ignore[no-any-return]


class Block7(nn.Module):
    """A layer of RWKV 7."""

    def __init__(self, c: Rwkv7Config, number: int) -> None:
        super().__init__()

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(c.hidden_size, c.norm_eps, bias=c.norm_bias)

        self.opens = number == 0 and c.norm_first
        if self.opens:
            self.pre_norm = norm()
        self.attn_norm, self.ffn_norm = norm(), norm()
        self.attn, self.ffn = Attention7(c, number), FeedForward7(c)

    def forward(self, x: Tensor, state: State, first: State) -> Tensor:
        x = self.pre_norm(x) if self.opens else x
        x = x + self.attn(self.attn_norm(x), state, first)
        return x + self.ffn(self.ffn_norm(x), state)  # type: ignore[no-any-return]


@dataclass
class Output(ModelOutput):
    """logits [B, T, vocab]; cache: the state of each layer."""

    logits: Tensor | None = None
    cache: list[State] | None = None


class _Base(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What the three have alike; `_body` has the embedding, the blocks and the last norm."""

    def _body(self) -> tuple[nn.Embedding, nn.ModuleList, nn.LayerNorm, nn.Linear]:
        raise NotImplementedError

    def _block(self, block: nn.Module, x: Tensor, state: State, first: State) -> Tensor:
        return block(x, state)  # type: ignore[no-any-return]

    def get_input_embeddings(self) -> nn.Module:
        return self._body()[0]

    def get_output_embeddings(self) -> nn.Module:
        return self._body()[3]

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
        embed, blocks, norm, head = self._body()
        states: list[State] = cache or [{} for _ in blocks]
        x, first = embed(input_ids), State()
        for block, state in zip(blocks, states, strict=True):
            x = self._block(block, x, state, first)
        return Output(head(norm(x)), states)


class _Body(nn.Module):
    def __init__(self, c: Rwkv5Config) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(c.vocab_size, c.hidden_size)
        self.blocks = nn.ModuleList(Block(c, n) for n in range(c.num_hidden_layers))
        self.ln_out = nn.LayerNorm(c.hidden_size)


class Rwkv5ForCausalLM(_Base):  # type: ignore[no-untyped-call]
    """RWKV 5 under the names of RWKV/rwkv-5-world-1b5."""

    config_class = Rwkv5Config
    base_model_prefix = "rwkv"

    def __init__(self, config: Rwkv5Config) -> None:
        super().__init__(config)
        self.rwkv = _Body(config)
        self.head = matrix(config.vocab_size, config.hidden_size)
        self.post_init()  # type: ignore[no-untyped-call]

    def _body(self) -> tuple[nn.Embedding, nn.ModuleList, nn.LayerNorm, nn.Linear]:
        return self.rwkv.embeddings, self.rwkv.blocks, self.rwkv.ln_out, self.head


class Rwkv6ForCausalLM(Rwkv5ForCausalLM):  # type: ignore[no-untyped-call]
    """RWKV 6 under the names of RWKV/rwkv-6-world-1b6."""

    config_class = Rwkv6Config


class _Body7(nn.Module):
    def __init__(self, c: Rwkv7Config) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Block7(c, n) for n in range(c.num_hidden_layers))
        self.norm = nn.LayerNorm(c.hidden_size, c.norm_eps, bias=c.norm_bias)


class RWKV7ForCausalLM(_Base):  # type: ignore[no-untyped-call]
    """RWKV 7 under fla's names."""

    config_class = Rwkv7Config
    base_model_prefix = "model"

    def __init__(self, config: Rwkv7Config) -> None:
        super().__init__(config)
        self.model = _Body7(config)
        self.lm_head = matrix(config.vocab_size, config.hidden_size)
        self.post_init()  # type: ignore[no-untyped-call]

    def _body(self) -> tuple[nn.Embedding, nn.ModuleList, nn.LayerNorm, nn.Linear]:
        return self.model.embeddings, self.model.layers, self.model.norm, self.lm_head

    def _block(self, block: nn.Module, x: Tensor, state: State, first: State) -> Tensor:
        return block(x, state, first)  # type: ignore[no-any-return]


MODELS: tuple[tuple[type[PretrainedConfig], type[PreTrainedModel]], ...] = (
    (Rwkv5Config, Rwkv5ForCausalLM),
    (Rwkv6Config, Rwkv6ForCausalLM),
    (Rwkv7Config, RWKV7ForCausalLM),
)


def register() -> None:
    """Make transformers know the three by their `model_type`."""
    for config, model in MODELS:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForCausalLM.register(config, model, exist_ok=True)
