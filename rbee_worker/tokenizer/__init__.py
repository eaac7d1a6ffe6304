"""Text and ids: tokenizers, chat templates, end tokens, streaming text. Torch-free."""

from rbee_worker.tokenizer.chat import ChatRenderer
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.eos import eos_set, template_special_ids
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.tokenizer.stream import Detokenizer

__all__ = [
    "ChatRenderer",
    "Detokenizer",
    "Tokenizer",
    "eos_set",
    "load_tokenizer",
    "template_special_ids",
]
