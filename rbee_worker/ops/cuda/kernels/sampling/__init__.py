"""From logits to tokens: most likely ids, filters, draws, scores, and edits of single logits.

A row's results are the same bits in any batch: its sums have an order that depends on the
vocabulary only, and there are no float atomics.
"""
