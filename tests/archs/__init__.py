"""The table of tiny configs: one row a variant, each drives every check of test_archs.py."""

from tests.archs import (
    dense,
    dots1,
    exaone4,
    gemma,
    gemma4,
    gpt,
    gptoss,
    hunyuan_v1_dense,
    latent,
    llama,
    llama4,
    mixture,
    nemotron,
    old,
    olmoe,
    phi,
    qwen,
    relatives,
    seed_oss,
)
from tests.archs.base import (
    VOCAB,
    Arch,
    cache_name,
    oracle,
    unpermute,
    write_checkpoint,
    write_gguf,
    write_safetensors,
)

__all__ = [
    "ARCHS",
    "VOCAB",
    "Arch",
    "cache_name",
    "oracle",
    "unpermute",
    "write_checkpoint",
    "write_gguf",
    "write_safetensors",
]

_GROUPS = (
    llama,
    qwen,
    gemma,
    relatives,
    phi,
    dense,
    gpt,
    old,
    mixture,
    latent,
    gptoss,
    llama4,
    gemma4,
    nemotron,
    exaone4,
    dots1,
    olmoe,
    hunyuan_v1_dense,
    seed_oss,
)
ARCHS: tuple[Arch, ...] = tuple(arch for group in _GROUPS for arch in group.ARCHS)
