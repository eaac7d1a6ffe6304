"""The GPU backend: a recorded model as Triton kernels and cuBLAS, decoding in CUDA graphs."""
