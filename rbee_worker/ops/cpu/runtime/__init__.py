"""Threads, memory and recorded programs: what runs kernels. Never imports the compiler."""
