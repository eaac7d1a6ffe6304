"""The backend for NVIDIA GPUs: Triton kernels and cuBLAS."""
