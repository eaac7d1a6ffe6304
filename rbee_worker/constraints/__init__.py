"""Constraints on the text of an answer: from what a request says to the tokens that may come next.

`grammar.py` turns every kind of `Constraint` into a grammar of llguidance, which does the work of
parsing; `check.py` finds out, in a confined process, whether it can be held; `matcher.py` follows
an answer and says which tokens may come next. Torch-free; llguidance is imported when the first
constraint arrives.
"""
