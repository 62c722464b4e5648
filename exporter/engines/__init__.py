"""ONNX → TensorRT engines: the second half of the exporter, the work of `ttc build`."""
