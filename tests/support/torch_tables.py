"""torch builds its table of ONNX translations anew for every graph it exports: a third of an export's time.

The table depends on the opset alone. Tests that export in their own process share one; commands that tests
start, and users, export as torch does.
"""

import functools

__all__ = ["share_translations"]


@functools.cache
def share_translations() -> None:
    """Let this process build the table once for an opset."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    table = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
    ONNXRegistry.from_torchlib = table  # type: ignore[method-assign, assignment]
