"""Threads, memory and recorded programs: runs the kernels. Never imports the compiler."""
