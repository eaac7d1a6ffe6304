"""Sampling defaults in a model's files that this worker does not apply.

The lists here have the keys known to have no effect; any other key that is not applied is reported.
So a default that nobody thought of is reported too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# Keys that do not change which tokens are drawn: where tokens are cached, what is returned beside
# them, how they are speculated. Names: transformers' GenerationConfig.
INERT = frozenset(
    {
        *("do_sample", "eos_token_id", "bos_token_id", "pad_token_id"),  # read elsewhere, or unused
        *("transformers_version", "_from_model_config", "_name_or_path", "trust_remote_code"),
        *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "low_memory"),
        *("compile_config", "disable_compile", "continuous_batching_config", "prefill_chunk_size"),
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
        *("return_dict_in_generate", "return_dict", "return_legacy_cache"),
        *("renormalize_logits", "remove_invalid_values"),
        *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule"),
        *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind"),
        *("target_lookbehind", "assistant_ensemble_weight", "speculation_type", "use_mtp"),
        *("prompt_lookup_num_tokens", "max_matching_ngram_size"),
        *("decoder_start_token_id", "generation_kwargs", "attn_implementation"),
    }
)

# Values without effect. transformers writes some of them itself.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "max_length": (20,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "early_stopping": (False,),
    "num_beams": (1,),
    "num_beam_groups": (1, 0),
    "num_return_sequences": (1,),
    "length_penalty": (1.0, 0.0),
    "diversity_penalty": (0.0,),
    "penalty_alpha": (0.0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "typical_p": (1.0,),
    "top_a": (0.0,),
    "tfs": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "top_h": (0.0, 1.0),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "guidance_scale": (1.0,),
    "token_healing": (False,),
    "general.sampling.xtc_probability": (0.0,),
    "general.sampling.mirostat": (0,),
    "general.sampling.sequence": ("",),
}
# Keys that have an effect only together with another: key -> the key that switches it on.
_ONLY_WITH = {
    "general.sampling.xtc_threshold": "general.sampling.xtc_probability",
    "general.sampling.mirostat_tau": "general.sampling.mirostat",
    "general.sampling.mirostat_eta": "general.sampling.mirostat",
    "general.sampling.penalty_last_n": "repetition_penalty",
    "length_penalty": "num_beams",
    "early_stopping": "num_beams",
}
_LIMITS = ("max_length", "max_new_tokens")  # limits of the answer's length
_SHOWN = 40


def asked(generation: Mapping[str, Any], applied: Iterable[str], context: int) -> list[str]:
    """A note for each key that changes what other programs generate with this model, but not here.

    applied: the keys that this worker applies. context: in tokens; a limit as long as the context
    has no effect.
    """
    known = {*applied, *INERT}
    found = []
    for key, value in generation.items():
        if key in known or _asks_nothing(key, value):
            continue
        if key in _LIMITS and isinstance(value, int) and value >= context:
            continue
        switch = _ONLY_WITH.get(key)
        if switch is not None and _asks_nothing(switch, generation.get(switch)):
            continue
        of = "" if key.startswith("general.") else "generation_config.json: "
        shown = str(value) if len(str(value)) <= _SHOWN else f"{str(value)[:_SHOWN]}…"
        found.append(f"{of}{key[:64]} ({shown}) is not applied by this worker")
    return found


def _asks_nothing(key: str, value: Any) -> bool:
    if value is None or value in ([], {}):
        return True
    if key == "repetition_penalty":
        return bool(value == 1.0)
    return any(value == neutral for neutral in NEUTRAL.get(key, ()))
