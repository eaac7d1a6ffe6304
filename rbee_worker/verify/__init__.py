"""Is a checkpoint computed right on this machine? Layer by layer against HF transformers.

The command `verify` and the tests of architectures compare with the same functions.
"""
