"""The operators of the ONNX domain `ttc`, one folder per op.

Every folder holds the same files: `__init__.py` (the signature), `naive.py` (plain torch: the meaning),
`function.py` (the ONNX function body in standard operators), `kernel.py` (Triton) and `plugin.py` (TensorRT).
`table.py` is the one list of all ops; `naive.py` and `triton.py` run them on torch tensors, `functions.py`
writes them into an ONNX model, `ptx.py` compiles their kernels, `registration.py` hands them to TensorRT.
"""
