"""What low-rank adapters add to linear maps."""
