"""Every family there is to support: what people call it, and what sets it apart.

A row for each line of docs/architectures.md, which `python -m tests.archs.page` makes from these.
Whether a family works, which GGUF files it has and what holds it to transformers is read from the
tables of the package and of the tests.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """types: Hugging Face's `model_type`s. old: types of the models' own code, read as the only
    one of `types`. gguf: what llama.cpp calls it ("": what our tables say). rotary: how pairs lie
    in GGUF files (pairs: neighbours; halves: half-split)."""

    name: str
    types: tuple[str, ...]
    traits: str
    rotary: str = "-"
    gguf: str = ""
    old: tuple[str, ...] = ()


FAMILIES: tuple[Family, ...] = (
    Family(
        "Llama 1/2", ("llama",), "RMSNorm, SwiGLU, RoPE 1e4, MHA/GQA", rotary="pairs", gguf="llama"
    ),
    Family(
        "Llama 3/3.1/3.2/3.3",
        ("llama",),
        "GQA, θ=5e5, llama3 freq scaling; 3.2 tied; `rope_freqs` in GGUF files",
        rotary="pairs",
        gguf="llama",
    ),
    Family(
        "Llama 4 (text half)",
        ("llama4_text", "llama4"),
        "iRoPE (NoPE every 4th), chunked attn, QK-norm, MoE top-1+shared, temp tuning",
        rotary="pairs",
        gguf="llama4",
    ),
    Family(
        "Mistral 7B",
        ("mistral",),
        "SWA in v0.1, θ 1e6 later, head_dim may ≠ d/h (Nemo)",
        rotary="pairs",
        gguf="llama",
    ),
    Family("Mixtral", ("mixtral",), "8 experts top-2, renormalised", rotary="pairs", gguf="llama"),
    Family(
        "Phi-1/1.5/2",
        ("phi",),
        "parallel attn+MLP, LayerNorm+bias, partial rotary 0.4–0.5, GELU, optional qk-LN, "
        "lm_head bias",
        rotary="halves",
        gguf="phi2",
    ),
    Family(
        "Phi under its old names",
        ("phi",),
        "same maths, fused names",
        rotary="halves",
        gguf="phi2",
        old=("mixformer-sequential", "phi-msft"),
    ),
    Family(
        "Phi-3/3.5/4/4-mini",
        ("phi3",),
        "fused qkv & gate_up, longrope, SWA, partial rotary (4-mini 0.75), tied in mini",
        rotary="halves",
        gguf="phi3",
    ),
    Family(
        "Qwen 1",
        ("qwen2",),
        "fused c_attn bias; context is `seq_length` (no logn or NTK scaling beyond it); "
        "tiktoken file not read",
        rotary="halves",
        gguf="qwen",
        old=("qwen",),
    ),
    Family(
        "Qwen2/2.5",
        ("qwen2",),
        "QKV bias, GQA, θ 1e6, tied ≤3B, YaRN; SWA only if use_sliding_window & "
        "layer≥max_window_layers",
        rotary="halves",
        gguf="qwen2",
    ),
    Family(
        "Qwen2-MoE",
        ("qwen2_moe",),
        "60/64 experts top-4, shared expert + sigmoid gate, norm_topk_prob false",
        rotary="halves",
        gguf="qwen2moe",
    ),
    Family(
        "Qwen3",
        ("qwen3",),
        "q/k RMSNorm per head, no bias, head_dim 128 explicit",
        rotary="halves",
        gguf="qwen3",
    ),
    Family(
        "Qwen3-MoE",
        ("qwen3_moe",),
        "128 experts top-8, norm_topk true, no shared",
        rotary="halves",
        gguf="qwen3moe",
    ),
    Family(
        "Gemma 1",
        ("gemma",),
        "RMSNorm(1+w), embed×√d, GeGLU tanh, head_dim 256, tied",
        rotary="halves",
        gguf="gemma",
    ),
    Family(
        "Gemma 2",
        ("gemma2",),
        "+post-norms, attn softcap 50, final 30, alternating SWA 4096, query_pre_attn_scalar",
        rotary="halves",
        gguf="gemma2",
    ),
    Family(
        "Gemma 3",
        ("gemma3_text", "gemma3"),
        "5:1 SWA, dual θ (1e4/1e6), QK-norm, no softcap, linear rope scale 8; SigLIP tower, whose "
        "rows see each other; EmbeddingGemma is an encoder: vectors, half of a window to each side",
        rotary="halves",
        gguf="gemma3, gemma-embedding",
    ),
    Family(
        "Gemma 4 (text half)",
        ("gemma4_text", "gemma4"),
        "per-layer KV heads & head dims, PLE, KV sharing, K=V in some, p-RoPE on global",
        rotary="halves",
        gguf="gemma4",
    ),
    Family(
        "DeepSeek V2",
        ("deepseek_v2",),
        "MLA (kv_lora_rank, decoupled rope), yarn+mscale, MoE greedy/group-limited, first_k_dense",
        rotary="pairs",
        gguf="deepseek2",
    ),
    Family(
        "DeepSeek V3/R1",
        ("deepseek_v3",),
        "sigmoid + e_score_correction_bias, groups, MTP head, fp8 block weights",
        rotary="pairs",
        gguf="deepseek2",
    ),
    Family("R1 distills of Llama", ("llama",), "as Llama 3", rotary="pairs", gguf="llama"),
    Family("R1 distills of Qwen", ("qwen2",), "as Qwen 2.5", rotary="halves", gguf="qwen2"),
    Family(
        "Falcon",
        ("falcon",),
        "parallel attn, MQA, LayerNorm, GELU, bias-free; alibi variants",
        rotary="halves",
        gguf="falcon",
    ),
    Family(
        "StableLM / 2",
        ("stablelm",),
        "LayerNorm, partial rotary 0.25, qkv bias (2-1.6B), 12B: per-head qk-LN + parallel "
        "residual",
        rotary="halves",
        gguf="stablelm",
    ),
    Family("SmolLM, SmolLM2", ("llama",), "GQA, tied", rotary="pairs", gguf="llama"),
    Family("Yi", ("llama",), "GQA, θ 5e6", rotary="pairs", gguf="llama"),
    Family(
        "StarCoder2",
        ("starcoder2",),
        "LayerNorm, biases, GELU, SWA 4096, θ ~1e5–1e6",
        rotary="halves",
        gguf="starcoder2",
    ),
    Family(
        "BigCode/StarCoder1/SantaCoder",
        ("gpt_bigcode",),
        "MQA, learned pos emb, LayerNorm",
        rotary="-",
        gguf="starcoder",
    ),
    Family(
        "Mamba / Falcon-Mamba",
        ("mamba", "falcon_mamba"),
        "selective scan, conv1d 4, fp32 residual, no KV",
        rotary="none",
        gguf="mamba",
    ),
    Family("Mamba 2", ("mamba2",), "SSD, gated RMSNorm, groups", rotary="none", gguf="mamba2"),
    Family(
        "RecurrentGemma",
        ("recurrent_gemma",),
        "RG-LRU + local attn 2048 (2:1), conv1d, partial rotary .5, logits softcap 30",
        rotary="-",
        gguf="none",
    ),
    Family("OLMo 1", ("olmo",), "non-parametric LayerNorm, clip_qkv", rotary="pairs", gguf="olmo"),
    Family(
        "OLMo 2/3",
        ("olmo2", "olmo3"),
        "post-norm, qk-RMSNorm over full width; 3: SWA 3:1 + yarn on full layers",
        rotary="halves",
        gguf="olmo2",
    ),
    Family(
        "GLM-4-9b",
        ("glm",),
        "fused gate and up, partial rotary 0.5, qkv bias",
        rotary="pairs",
        gguf="chatglm",
    ),
    Family(
        "ChatGLM2/3, GLM-4-9b, CodeGeeX4",
        ("glm",),
        "fused qkv & swiglu, `rope_ratio`",
        rotary="pairs",
        gguf="chatglm",
        old=("chatglm",),
    ),
    Family(
        "GLM-4-0414 / Z1",
        ("glm4",),
        "sandwich norms, partial rotary 0.5 interleaved",
        rotary="pairs",
        gguf="glm4",
    ),
    Family(
        "Granite 3.x", ("granite",), "μP multipliers, llama block", rotary="pairs", gguf="granite"
    ),
    Family(
        "GraniteMoe (+Shared)",
        ("granitemoe", "granitemoeshared"),
        "+ top-k MoE fused experts",
        rotary="pairs",
        gguf="granitemoe",
    ),
    Family(
        "GraniteMoeHybrid (4.0)",
        ("granitemoehybrid",),
        "Mamba2 + attn mix, optional MoE, multipliers",
        rotary="pairs",
        gguf="granitehybrid",
    ),
    Family(
        "Bamba",
        ("bamba",),
        "Mamba2 + attn mix, partial rotary 0.5, MLPs",
        rotary="pairs",
        gguf="granitehybrid",
    ),
    Family(
        "Falcon-H1",
        ("falcon_h1",),
        "Mamba2 and attn side by side, multipliers everywhere",
        rotary="halves",
        gguf="falcon-h1",
    ),
    Family(
        "Nemotron-H, Nemotron 3 Nano",
        ("nemotron_h",),
        "each layer Mamba2, NoPE attn, relu² MLP or sigmoid MoE, latent experts",
        rotary="pairs",
        gguf="nemotron_h, nemotron_h_moe",
    ),
    Family(
        "Jamba",
        ("jamba",),
        "Mamba with norms of dt, B, C, NoPE attn every 8th, MoE every 2nd",
        rotary="none",
        gguf="jamba",
    ),
    Family(
        "Qwen3-Next",
        ("qwen3_next",),
        "gated delta rule 3:1 gated attn, partial rotary 0.25, 512 experts top-10 + shared",
        rotary="halves",
        gguf="qwen3next",
    ),
    Family(
        "BERT (MiniLM, BGE, E5, GTE)",
        ("bert",),
        "encoder: vectors, classes; learned positions, two texts told apart, norm after each half",
        gguf="bert",
    ),
    Family(
        "RoBERTa, XLM-RoBERTa, CamemBERT",
        ("roberta", "xlm-roberta", "camembert"),
        "encoder: vectors, classes; BERT's block, positions begin after the padding's id",
        gguf="bert",
    ),
    Family(
        "MPNet",
        ("mpnet",),
        "encoder: vectors, classes; BERT's block, T5's distances beside learned positions",
        gguf="none",
    ),
    Family(
        "DistilBERT",
        ("distilbert",),
        "encoder: vectors, classes; BERT's block without a table of two texts",
        gguf="bert",
    ),
    Family(
        "ModernBERT",
        ("modernbert",),
        "encoder: vectors, classes; alternating local 128, GeGLU, dual θ, no norm in layer 0",
        rotary="halves",
        gguf="modern-bert",
    ),
    Family(
        "Helium", ("helium",), "interleaved rotary, RMSNorm, llama-like", rotary="-", gguf="none"
    ),
    Family(
        "Based",
        ("based",),
        "gated short convs, some layers of Taylor linear attn and of SWA; files say `gpt2`",
        rotary="-",
        gguf="none",
    ),
    Family(
        "MPT / Replit-code",
        ("mpt",),
        "ALiBi, LayerNorm no bias, clip_qkv; qk_ln in some",
        rotary="none",
        gguf="mpt",
    ),
    Family(
        "Persimmon",
        ("persimmon",),
        "qk-LN, partial rotary .5, relu², fused qkv interleaved per head",
        rotary="-",
        gguf="none",
    ),
    Family(
        "RWKV v5/v6/v7",
        ("rwkv5", "rwkv6", "rwkv7"),
        "token shift, WKV state, low-rank mixing (6), delta rule + first layer's values (7)",
        rotary="none",
        gguf="rwkv6, rwkv7",
    ),
    Family(
        "T5 / Flan-T5 / UL2 / ByT5; mT5; umT5",
        ("t5", "mt5", "umt5"),
        "encoder and decoder; relative bias buckets (umT5: in every layer), RMSNorm, scores "
        "without 1/√d, gates (1.1, Flan), logits * d^-½ where the head is the embedding",
        rotary="none",
        gguf="t5",
    ),
    Family(
        "Idefics3, SmolVLM, SmolVLM2",
        ("idefics3", "smolvlm"),
        "Llama with a SigLIP tower; squares of patches, side by side, become one token",
        rotary="pairs",
        gguf="llama",
    ),
    Family(
        "Moondream 1/2 (to 2024-04-02)",
        ("moondream1",),
        "Phi 1.5 with a SigLIP tower: q, k and v in one map; two maps with a GELU for each patch",
        rotary="halves",
        gguf="phi2",
    ),
    Family(
        "MetaVoice 1B",
        ("metavoice",),
        "text to speech: learned positions, a speaker's embedding in every row, two lanes with and "
        "without it; EnCodec codes of 2 codebooks, 6 more from a second stage",
        rotary="none",
        gguf="none",
    ),
    Family(
        "SmolLM3",
        ("smollm3",),
        "NoPE every 4th layer, GQA, tied, θ 5e6",
        rotary="pairs",
        gguf="smollm3",
    ),
    Family(
        "LFM2",
        ("lfm2",),
        "short gated conv L=3 + GQA with qk-norm, conv cache",
        rotary="halves",
        gguf="lfm2",
    ),
    Family(
        "LFM2 MoE",
        ("lfm2_moe",),
        "+ sigmoid MoE with a bias behind the first layers",
        rotary="halves",
        gguf="lfm2moe",
    ),
    Family(
        "Cohere Command-R",
        ("cohere",),
        "parallel block, LayerNorm no bias, qk-norm in R+, logit_scale, interleaved rotary",
        rotary="pairs",
        gguf="command-r",
    ),
    Family(
        "GPT-OSS",
        ("gpt_oss",),
        "attention sinks, alternating window 128, MoE top-4 with clamped SwiGLU and biases, "
        "MXFP4 experts, yarn",
        rotary="halves",
        gguf="gpt-oss",
    ),
    Family(
        "Nemotron 3/4, Minitron",
        ("nemotron",),
        "LayerNorm(1+w), squared ReLU without a gate, partial rotary 0.5",
        rotary="halves",
        gguf="nemotron",
    ),
    Family(
        "dots.llm1",
        ("dots1",),
        "qk-RMSNorm per head, sigmoid + e_score_correction_bias, shared experts, first_k_dense",
        rotary="halves",
        gguf="dots1",
    ),
    Family(
        "GLM-4.5, GLM-4.6",
        ("glm4_moe",),
        "sigmoid + e_score_correction_bias, shared expert, partial rotary 0.5, optional "
        "qk-RMSNorm, MTP layer",
        rotary="halves",
        gguf="glm4moe",
    ),
    Family(
        "OLMoE",
        ("olmoe",),
        "qk-RMSNorm over full width, 64 experts top-8, not renormalised",
        rotary="halves",
        gguf="olmoe",
    ),
    Family(
        "EXAONE 4",
        ("exaone4",),
        "norms after each half, of each head's q and k; 32B: SWA 3:1, NoPE in full layers",
        rotary="halves",
        gguf="exaone4",
    ),
    Family(
        "Hunyuan dense, Hunyuan-MT, Hy-MT",
        ("hunyuan_v1_dense",),
        "RMSNorm of each head's q and k after rotation, θ×α^(d/(d-2)), tied",
        rotary="halves",
        gguf="hunyuan-dense",
    ),
    Family(
        "Seed-OSS",
        ("seed_oss",),
        "QKV bias, head_dim 128 explicit, θ 1e7, llama-like",
        rotary="halves",
        gguf="seed_oss",
    ),
    Family(
        "Arcee AFM",
        ("arcee",),
        "squared ReLU without a gate, yarn",
        rotary="pairs",
        gguf="arcee",
    ),
    Family(
        "Phi-3.5-MoE",
        ("phimoe",),
        "sparsemixer top-2 routing, LayerNorm, longrope",
        rotary="halves",
        gguf="phimoe",
    ),
)
