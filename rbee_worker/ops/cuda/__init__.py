"""The GPU backend: a recorded model lowered to Triton kernels and cuBLAS, decoding in CUDA graphs."""
