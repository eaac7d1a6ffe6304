"""MetaVoice's first stage: text and a speaker's voice in, tokens of two EnCodec codebooks out.

model_type: metavoice (MetaVoice 2024, github.com/metavoiceio/metavoice-src, fam/llm/fast_model.py).
A decoder with learned positions, RMSNorm and gated MLPs. What differs from others: every row also
gets the speaker's embedding, mapped to the model's width; and a sequence is computed twice, with
that and without (`Decoder.voice`), because its logits are those of both (engine/lanes.py).
Tensors have the names of candle's files. config.json is of our own: the authors keep these numbers
in their code (`checkpoint/stages.py` has them for a directory without one).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rbee_worker.layers.blocks import PreNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig, positive
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights
from rbee_worker.state.specs import LANES

NAMES = parts.Names(embed="tok_embeddings", head="output", layers="layers")


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """MetaVoice's own keys. speaker_embedding_size: numbers of a speaker's embedding."""

    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    speaker_embedding_size: int = 256


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError."""
    parts.check(c)
    positive("config", speaker_embedding_size=c.speaker_embedding_size)

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("attention_norm", c.hidden_size, c.rms_norm_eps),
            attention=parts.attention(
                at.sub("attention"), c, layer=layer, out="wo", fused="wqkv", lanes=LANES
            ),
            mlp_norm=at.rms_norm("ffn_norm", c.hidden_size, c.rms_norm_eps),
            mlp=parts.gated_mlp(at.sub("feed_forward"), c, names=("swiglu.w1", "swiglu.w3", "w2")),
        )

    positions = w.matrix("pos_embeddings.weight", c.max_position_embeddings, c.hidden_size)
    voice = w.linear("speaker_cond_pos", c.speaker_embedding_size, c.hidden_size)
    norm = w.rms_norm("norm", c.hidden_size, c.rms_norm_eps)
    made = parts.decoder(w, c, plan_layers(c, None), block, norm, names=NAMES)
    return replace(made, positions=positions, voice=voice)
