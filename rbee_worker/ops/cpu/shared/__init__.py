"""What compiling and running agree on: layouts, offsets, formats, the cache of kernels."""
