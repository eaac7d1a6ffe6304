"""Compares this machine's computation of a checkpoint with HF transformers, layer by layer.

The command `verify` and the tests of architectures use the same functions.
"""
