"""What a sequence keeps between steps: what layers declare, who holds which block and slot."""
