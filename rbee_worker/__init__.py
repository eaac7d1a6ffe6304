"""rbee-worker: one process group that serves one language model, in readable Python."""

__version__ = "0.1.0"
