"""Convolutions and recurrences over the rows of each sequence.

Each program goes through its sequence's rows in order. Products and sums that make a state are each
rounded to float32, so the results have the same bits however a sequence is split into steps.
"""
