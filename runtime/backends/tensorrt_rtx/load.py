"""Bundle and TensorRT-RTX engines → a backend. Has not run on a GPU yet."""

from functools import partial

from ttc.runtime.gpu.load_engines import load_engines

__all__ = ["load"]

load = partial(load_engines, "tensorrt-rtx")
