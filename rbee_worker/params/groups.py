"""Parameters of a request in groups, as people look for them: for the page and --help."""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    "Sampling": ("temperature", "top_p", "top_k", "min_p", "seed"),
    "Length and stops": ("max_tokens", "min_tokens", "stop", "stop_token_ids", "ignore_eos"),
    "Penalties": (
        "repetition_penalty",
        "repeat_last_n",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
    ),
    "Reasoning": ("enable_thinking", "reasoning_effort", "thinking_budget", "reasoning_format"),
    "Form of the answer": ("json_schema", "regex", "choice", "grammar", "skip_special_tokens"),
    "Reports and limits": ("logprobs", "top_logprobs", "echo", "speculation", "timeout_s"),
}
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


def group_of(name: str) -> str:
    """The group of the parameter `name`, "" if it is in none: what a route reads itself, and second
    names of the same thing (`guided_json`, `response_format`)."""
    return _GROUP_OF.get(name, "")
