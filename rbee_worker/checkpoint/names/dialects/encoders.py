"""ModernBERT, DistilBERT, and T5 with its relatives."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.dialects.dialect import Dialect

_T5_KEYS = {
    "d_model": "hidden_size",
    "d_kv": "head_dim",
    "d_ff": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}

DIALECTS = MappingProxyType(
    {
        **{
            name: Dialect(
                name,
                _T5_KEYS,
                ignored=(
                    *("dropout_rate", "initializer_factor", "dense_act_fn"),
                    *("task_specific_params", "scalable_attention", "output_past"),
                ),
            )
            for name in ("t5", "mt5", "umt5")
        },
        "distilbert": Dialect(
            "distilbert",
            {
                "dim": "hidden_size",
                "hidden_dim": "intermediate_size",
                "n_layers": "num_hidden_layers",
                "n_heads": "num_attention_heads",
                "activation": "hidden_act",
            },
            # how the table of positions, which files have, was made; dropouts
            ignored=("sinusoidal_pos_embds", "dropout", "qa_dropout", "seq_classif_dropout"),
        ),
        # BERT's key; positions of ModernBERT are rotary.
        "modernbert": Dialect("modernbert", ignored=("position_embedding_type",)),
    }
)
