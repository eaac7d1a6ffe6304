"""End-of-turn tokens of published chat formats: data only."""

from __future__ import annotations

# Spellings that no vocabulary uses for anything else.
UNMISTAKABLE = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|eom|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
    "<|tool_response|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|END_OF_TURN_TOKEN|>",
    "|ENDOFTEXT|",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
)
# These count only if the vocabulary says that they are special (in Gemma's, </s> is HTML).
END_OF_TURN = (*UNMISTAKABLE, "[EOT]", "[EOS]", "<EOT>", "<eos>", "</s>")

# token -> tokens in whose presence it ends only a part of a turn, or nothing at all
NOT_AMONG: dict[str, tuple[str, ...]] = {
    "<|end|>": ("<|return|>", "<|call|>"),  # harmony: ends one message of several
    "</s>": ("<|tool_response>",),  # Gemma 4: an HTML tag
}
