"""Runs llama.cpp's own converter on several checkpoints, in a process of its own:

python convert.py SOURCE JOBS    SOURCE: the converter; JOBS: a JSON list of [checkpoint, file]

Writes one JSON object a job to stdout: {"file": .., "error": null or text, "vocabulary": ..}.
The converter knows published tokenizers by what they make of a text, and refuses others: here it
is told that the tests' tokenizer is GPT-2's. Where a family's converter wants a SentencePiece
model, it gets that vocabulary too ("vocabulary": "lent"). Nemotron-H's config.json it reads itself,
as when transformers had no class for it, whose keys it takes for a mixture's. All else is
llama.cpp's code as it is.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from pathlib import Path
from typing import Any

BY_ITSELF = ("nemotron_h",)
WITHOUT = ("qwen3_next",)  # what predicts further tokens, which published checkpoints have


def main(source: str, jobs: str) -> None:
    """Convert each job; one that fails does not keep the next from its turn."""
    sys.path[:0] = [source, str(Path(source) / "gguf-py")]
    import convert_hf_to_gguf as converter
    from conversion import base

    logging.disable(logging.INFO)
    lent: list[str] = []

    def known(self: Any, tokenizer: Any) -> str:
        return "gpt-2"

    def prepared(self: Any, vocab_only: bool) -> None:
        own = type(self).set_vocab

        def with_ours() -> None:
            before = dict(self.gguf_writer.kv_data[0])
            try:
                own(self)
            except Exception:
                self.gguf_writer.kv_data[0].clear()
                self.gguf_writer.kv_data[0].update(before)
                lent.append(type(self).__name__)
                base.TextModel._set_vocab_gpt2(self)

        self.set_vocab = with_ours
        prepare(self, vocab_only)

    def config_of(folder: Path, is_mistral_format: bool) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        if config["model_type"] in BY_ITSELF:
            return config
        through: dict[str, Any] = load(folder, is_mistral_format)
        return through

    load, prepare = base.ModelBase.load_hparams, base.TextModel.prepare_metadata
    base.ModelBase.load_hparams = staticmethod(config_of)
    base.TextModel.get_vocab_base_pre = known
    base.TextModel.prepare_metadata = prepared
    for checkpoint, file in json.loads(Path(jobs).read_text()):
        lent.clear()
        sys.argv = ["convert_hf_to_gguf.py", checkpoint, "--outfile", file, "--outtype", "f32"]
        if json.loads((Path(checkpoint) / "config.json").read_text())["model_type"] in WITHOUT:
            sys.argv.append("--no-mtp")
        modules = Path(checkpoint) / "modules.json"
        if modules.is_file() and "Dense" in modules.read_text():
            sys.argv.append("--sentence-transformers-dense-modules")
        error = None
        try:
            converter.main()
        except (Exception, SystemExit):
            error = traceback.format_exc()
        done = {"file": file, "error": error, "vocabulary": "lent" if lent else "its own"}
        sys.stdout.write(json.dumps(done) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
