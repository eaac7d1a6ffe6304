"""What a model's generation_config.json may ask of transformers that this worker does not do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# key -> the value that asks for nothing. Names and neutral values: transformers' GenerationConfig.
_NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": 0.0,
    "dola_layers": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "top_h": None,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "diversity_penalty": 0.0,
    "bad_words_ids": None,
    "force_words_ids": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "guidance_scale": 1.0,
    "min_length": 0,
    "min_new_tokens": None,
    "watermarking_config": None,
    "stop_strings": None,
}


def asked(generation: Mapping[str, Any]) -> list[str]:
    """A note for each key that changes what transformers generates, and nothing here."""
    found = []
    for key, neutral in _NEUTRAL.items():
        value = generation.get(key)
        if value not in (None, neutral, [], {}):
            found.append(f"generation_config.json: {key} is not applied by this worker")
    return found
