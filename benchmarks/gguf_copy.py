"""A GGUF file with more layers or a longer context, for benchmarks: what it says is of no use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

ZERO = ("attn_output.weight", "ffn_down.weight")  # of a layer that adds nothing


def write_copy(
    source: Path, path: Path, *, layers: int = 0, context: int = 0, template: str = ""
) -> None:
    """Copy a file. layers: how many more it has, like its last one, but that they add nothing;
    context: the longest sequence that it says it was made for (0: as it is);
    template: its chat template, if it has none."""
    reader = gguf.GGUFReader(source)
    arch = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(path, arch)
    count = int(reader.fields[f"{arch}.block_count"].contents())
    other = {f"{arch}.block_count": count + layers}
    if context:
        other[f"{arch}.context_length"] = context
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, other.get(field.name, field.contents()), kind, inner)
    if template and "tokenizer.chat_template" not in reader.fields:
        writer.add_string("tokenizer.chat_template", template)
    last = f"blk.{count - 1}."
    tensors: list[tuple[str, Any]] = [(t.name, t) for t in reader.tensors]
    mine = [(t.name.removeprefix(last), t) for t in reader.tensors if t.name.startswith(last)]
    for tensor_name, tensor in tensors:
        writer.add_tensor(tensor_name, tensor.data, raw_dtype=tensor.tensor_type)
    for number in range(count, count + layers):
        for name, tensor in mine:
            data = np.zeros_like(tensor.data) if name in ZERO else tensor.data
            writer.add_tensor(f"blk.{number}.{name}", data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
