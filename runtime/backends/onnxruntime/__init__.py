"""ONNX Runtime: the default backend. CPU, or its CUDA provider where present."""
