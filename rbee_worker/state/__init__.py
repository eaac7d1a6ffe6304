"""What a sequence keeps between steps: declarations of layers, and who holds which blocks, slots."""
