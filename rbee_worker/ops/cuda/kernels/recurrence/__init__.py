"""Convolutions and recurrences over the rows of each sequence.

Most kernels go through a sequence's rows in order. Products and sums that make a state are each
rounded to float32, so the results have the same bits however a sequence is split into steps. Those
of `*_chunks` and `segments` compute many rows of a long sequence side by side.
"""
