"""Triton kernels and their launch functions: torch tensors in, torch tensors out."""
