"""Tiny decoders that score pairs of texts, as they are published, and what transformers makes of
them: Qwen 3 with a byte-level tokenizer of a few merges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
MERGES = (("y", "e"), ("ye", "s"), ("n", "o"), ("t", "h"), ("th", "e"))
# What the model card of Qwen3-Reranker has, written apart from the worker's copy.
PREFIX = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
ASKED = f"<Instruct>: {INSTRUCTION}\n<Query>: {{query}}\n<Document>: {{document}}"
# A chat template as sentence-transformers' files bring it: one message a role.
CHAT = (
    "<|im_start|>system\nJudge.<|im_end|>\n<|im_start|>user\n<Instruct>: "
    "{{ messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first "
    "| default('Find it') }}\n"
    "<Query>: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first "
    "| trim }}\n"
    "<Document>: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') "
    "| first }}<|im_end|>\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCE: dict[str, Any] = {
    "transformer_task": "text-generation",
    "modality_config": {
        "text": {"method": "forward", "method_output_name": "logits"},
        "message": {"method": "forward", "method_output_name": "logits", "format": "flat"},
    },
    "module_output_name": "causal_logits",
    "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
}
WRAPPED = "sentence_transformers.base.modules.transformer.Transformer"
SCORED = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"


def vocabulary() -> list[str]:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*letters, *("".join(pair) for pair in MERGES), *SPECIAL]


def write(folder: Path, *, classes: int = 0, chat: str = "", **config: Any) -> Path:
    """A model with random weights in transformers' own files: one that generates, or with a head
    for `classes`."""
    words = vocabulary()
    kind = "Qwen3ForSequenceClassification" if classes else "Qwen3ForCausalLM"
    given = {
        "vocab_size": len(words) + 3,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "pad_token_id": words.index(SPECIAL[0]),
        "eos_token_id": words.index(SPECIAL[2]),
        "tie_word_embeddings": True,
        **({"num_labels": classes} if classes else {}),
        **config,
    }
    torch.manual_seed(5)
    model = getattr(transformers, kind)(Qwen3Config(**given)).float()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * 0.3 + 1.0 if "norm" in name else p * 4.0)
    model.save_pretrained(folder)
    ids = {word: n for n, word in enumerate(words) if word not in SPECIAL}
    made = Tokenizer(models.BPE(ids, [*MERGES]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([*SPECIAL])
    made.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1024}
    told |= {"pad_token": SPECIAL[0], "eos_token": SPECIAL[2]}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    if chat:
        (folder / "chat_template.jinja").write_text(chat)
    return folder


def as_sentence_transformers(folder: Path, *, ids: Sequence[int | None] = (), **said: Any) -> Path:
    """Beside it, what sentence-transformers 6 writes; ids: of the tokens that answer."""
    steps = [{"idx": 0, "name": "0", "path": "", "type": WRAPPED}]
    sentence = SENTENCE
    if ids:
        steps.append({"idx": 1, "name": "1", "path": "1_LogitScore", "type": SCORED})
        (folder / "1_LogitScore").mkdir()
        words = dict(zip(("true_token_id", "false_token_id"), ids, strict=True))
        (folder / "1_LogitScore" / "config.json").write_text(json.dumps(words))
    else:
        sentence = {
            **SENTENCE,
            "transformer_task": "sequence-classification",
            "module_output_name": "scores",
        }
    files = {
        "modules.json": steps,
        "sentence_bert_config.json": sentence,
        "config_sentence_transformers.json": {
            "model_type": "CrossEncoder",
            "prompts": {},
            "default_prompt_name": None,
            **said,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def write_gguf(folder: Path, file: Path, asked: str = ASKED) -> Path:
    """`folder`'s model as llama.cpp's converter writes Qwen3-Reranker: the rows of yes and no are a
    head for classes, and its template is one for a query and a document. asked: the middle of
    it."""
    model, _ = opened(folder)
    c, words = model.config, vocabulary()
    w = gguf.GGUFWriter(file, "qwen3")
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_key_length(c.head_dim)
    w.add_value_length(c.head_dim)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(c.rope_parameters["rope_theta"])
    w.add_pooling_type(gguf.PoolingType.RANK)
    w.add_classifier_output_labels(["yes", "no"])
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list([*words, *(f"[PAD{n}]" for n in range(c.vocab_size - len(words)))])
    kinds = [3 if word in SPECIAL else 1 for word in words]
    w.add_token_types([*kinds, *[5] * (c.vocab_size - len(words))])
    w.add_token_merges([" ".join(pair) for pair in MERGES])
    w.add_eos_token_id(words.index(SPECIAL[2]))
    w.add_add_bos_token(False)
    w.add_chat_template([{"name": "rerank", "template": PREFIX + asked + SUFFIX}])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, c.num_hidden_layers)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            rows = [words.index("yes"), words.index("no")]
            w.add_tensor("cls.output.weight", value.numpy()[rows])
        else:
            w.add_tensor(names.get_name(name, (".weight",)) or name, value.numpy())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return file


def opened(folder: Path, *, classes: bool = False) -> tuple[PreTrainedModel, Any]:
    """transformers' own model and tokenizer."""
    kind = "AutoModelForSequenceClassification" if classes else "AutoModelForCausalLM"
    model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32).eval()
    return model, PreTrainedTokenizerFast.from_pretrained(folder)


def by_model_card(
    folder: Path, query: str, document: str, instruction: str = INSTRUCTION, most: int = 1024
) -> float:
    """The probability of yes, as the model card computes it: the text between prefix and suffix is
    tokenized, and cut, alone."""
    model, tokenizer = opened(folder)
    prefix, suffix = (tokenizer.encode(text, add_special_tokens=False) for text in (PREFIX, SUFFIX))
    text = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    room = most - len(prefix) - len(suffix)
    ids = tokenizer(text, truncation="longest_first", max_length=room)["input_ids"]
    return answered(model, tokenizer, prefix + ids + suffix)


def answered(model: PreTrainedModel, tokenizer: Any, ids: list[int]) -> float:
    """softmax of the last row's logits of no and yes: that of yes."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, -1].double()
    pair = logits[tokenizer.convert_tokens_to_ids(["no", "yes"])]
    return float(pair.softmax(0)[1])
