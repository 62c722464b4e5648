"""The operators of the ONNX domain `ttc`, one folder per op.

Every folder holds the same files: `__init__.py` (the signature), `naive.py` (plain torch: the meaning),
`function.py` (the ONNX function body in standard operators), `kernel.py` (Triton) and `cost.py` (FLOPs). In
each of them what belongs to the op `MoeUp` is called `moe_up`, so that nothing has to be registered.

What products of experts share, whatever their weights are stored in, is in `grouped_product.py`,
`grouped_launch.py` and `quantised_decode.py`.

`table.py` finds the folders; `naive.py` and `triton.py` run ops on torch tensors, `functions.py` writes them
into an ONNX model, `ptx.py` compiles their kernels, `registration.py` makes TensorRT plugins of them, and
`costs.py` says what they must at least read and compute.
"""
