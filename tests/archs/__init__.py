"""The table of tiny configs: one row a variant, each drives every check of test_archs.py."""

from tests.archs import dense, gemma, llama, phi, qwen, relatives
from tests.archs.base import VOCAB, Arch, oracle, unpermute, write_gguf, write_safetensors

__all__ = ["ARCHS", "VOCAB", "Arch", "oracle", "unpermute", "write_gguf", "write_safetensors"]

ARCHS: tuple[Arch, ...] = (
    llama.ARCHS + qwen.ARCHS + gemma.ARCHS + relatives.ARCHS + phi.ARCHS + dense.ARCHS
)
