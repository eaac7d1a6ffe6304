"""Other people's clients against the worker: one program for each, and the table of what works."""
