"""The operators of the ONNX domain `ttc`, one folder per op.

Every folder holds the same files: `__init__.py` (the signature), `naive.py` (plain torch: the meaning) and
`function.py` (the ONNX function body in standard operators). `kernel.py` (Triton) and `plugin.py` (TensorRT)
take their place beside them. `table.py` is the one list of all ops, `naive.py` the one that runs them in
torch, `functions.py` the one that writes them into an ONNX model.
"""
