"""Text and ids: tokenizers, chat templates, end tokens, streamed text. Torch-free."""
