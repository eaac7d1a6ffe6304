"""Kernels' Python to machine code. Imported only by the compiling process."""
