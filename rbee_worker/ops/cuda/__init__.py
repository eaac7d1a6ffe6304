"""The GPU backend: a recorded model becomes Triton kernels, cuBLAS and CUDA graphs."""
