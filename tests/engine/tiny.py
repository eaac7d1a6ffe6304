"""A llama of 30,000 random numbers with a byte tokenizer, as a directory on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

DIM, LAYERS, HEADS, KV_HEADS, HIDDEN = 32, 2, 4, 2, 48
SPECIALS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny(folder: Path, *, context: int = 256, seed: int = 1) -> Path:
    """The checkpoint's directory. `<|im_end|>` is in generation_config only."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True) for s in SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))
    vocab = tokenizer.get_vocab_size()
    ids = {s: tokenizer.token_to_id(s) for s in SPECIALS}
    _json(
        folder / "config.json",
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        vocab_size=vocab,
        hidden_size=DIM,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
    )
    _json(folder / "generation_config.json", eos_token_id=[ids["</s>"], ids["<|im_end|>"]])
    _json(
        folder / "tokenizer_config.json",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=CHATML,
        tokenizer_class="PreTrainedTokenizerFast",
    )
    save_file(_weights(vocab, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _weights(vocab: int, seed: int) -> dict[str, np.ndarray]:
    dice = np.random.default_rng(seed)
    kv = DIM // HEADS * KV_HEADS
    shapes = {"model.embed_tokens.weight": (vocab, DIM), "model.norm.weight": (DIM,)}
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        shapes |= {
            f"{at}.input_layernorm.weight": (DIM,),
            f"{at}.post_attention_layernorm.weight": (DIM,),
            f"{at}.self_attn.q_proj.weight": (DIM, DIM),
            f"{at}.self_attn.k_proj.weight": (kv, DIM),
            f"{at}.self_attn.v_proj.weight": (kv, DIM),
            f"{at}.self_attn.o_proj.weight": (DIM, DIM),
            f"{at}.mlp.gate_proj.weight": (HIDDEN, DIM),
            f"{at}.mlp.up_proj.weight": (HIDDEN, DIM),
            f"{at}.mlp.down_proj.weight": (DIM, HIDDEN),
        }
    scale = 0.3
    return {
        name: (dice.standard_normal(shape) * scale + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes.items()
    }


def _json(path: Path, **content: object) -> None:
    path.write_text(json.dumps(content))
