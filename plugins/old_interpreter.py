"""Triton 3.6's interpreter beside a new numpy.

It makes a Python number of an array of one element, where a kernel's loop has a bound that is no constant.
numpy warns of that from 1.25 on and refuses it from 2.4 on; Triton 3.7 does otherwise. On a GPU there is no
interpreter, and 3.6 is as good as the others.
"""

from typing import Any

import triton

__all__ = ["mend"]


def mend() -> None:
    """Let the interpreter of Triton 3.6 convert scalars as that of 3.7 does; leave other versions."""
    if not triton.__version__.startswith("3.6."):
        return
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor  # noqa: SLF001  # where it says how

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))
        scope.set_attr(
            tensor, "__bool__", lambda self: bool(self.handle.data.size != 1 or self.handle.data.item())
        )

    interpreter._patch_lang_tensor = patched  # noqa: SLF001
