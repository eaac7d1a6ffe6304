"""Models that speak, whose authors' code has other names for the config's keys."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.dialects.dialect import Dialect

DIALECTS = MappingProxyType(
    {
        "metavoice": Dialect(
            "metavoice",
            {
                "dim": "hidden_size",
                "n_layer": "num_hidden_layers",
                "n_head": "num_attention_heads",
                "n_local_heads": "num_key_value_heads",
                "block_size": "max_position_embeddings",
                "norm_eps": "rms_norm_eps",
                "speaker_emb_dim": "speaker_embedding_size",
            },
            # of the second stage, which is no part of the engine's model
            ignored=("second_stage",),
        )
    }
)
