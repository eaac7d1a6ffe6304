"""A model as a small graph of operations, recorded once; a backend lowers it to what it runs."""
