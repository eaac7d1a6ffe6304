"""Text and ids: tokenizers, chat templates, end tokens, streaming text. Torch-free."""
