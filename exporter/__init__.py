"""Ahead of time, in two halves.

`onnx` turns a checkpoint into ONNX graphs, `engines` turns graphs into TensorRT engines; `passes` rewrites
graphs for both. The halves do not import each other: what they share is a bundle on disk.
"""
