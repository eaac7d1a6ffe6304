"""Packed weights on the GPU: values in floats, and products that read the packed bytes themselves.

`blocks.py`, `gridded.py`, `tables.py` and `dequantize.py`: any format becomes floats.
"""
