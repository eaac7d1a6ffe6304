"""Packed weights on the GPU: values in floats, and products that read the packed bytes themselves.

`blocks.py`, `gridded.py`, `tables.py` and `dequantize.py`: any format becomes floats.
`codes.py` and `planes.py`: the layout that products read, made at load.
`quantize.py`: activations as int8.
`int8.py`, `chunks.py`, `row_sums.py`, `product.py` and `product_shapes.py`: the product of the two.
"""
