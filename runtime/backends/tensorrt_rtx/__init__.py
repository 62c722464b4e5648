"""TensorRT-RTX engines on a GPU."""
