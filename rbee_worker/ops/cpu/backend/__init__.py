"""`CpuOps`: every operation as entries of a recorded program, and what the engine sees of it."""
