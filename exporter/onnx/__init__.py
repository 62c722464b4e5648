"""Checkpoint → ONNX: the first half of the exporter, the work of `ttc export`."""
