"""From logits to tokens in plain torch."""
