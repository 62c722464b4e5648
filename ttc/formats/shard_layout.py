"""The layout of a `.safetensors` file that is to be written: its header, and where each tensor goes.

Known before any value is, so that several processes can write into one file. Tensors lie by the size of
their numbers, the widest first, so that each begins at a multiple of it.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ttc.base.dtypes import numpy_dtype
from ttc.formats.shard import STORED_NAMES

__all__ = ["NewTensor", "ShardLayout"]


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to be written; `dtype` is numpy's name."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its length in bytes."""
        return math.prod(self.shape) * numpy_dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """One file.

    Attributes:
        header: everything before the first tensor.
        offsets: tensor name → its first byte in the file.
        size_bytes: of the whole file.
    """

    header: bytes
    offsets: Mapping[str, int]
    size_bytes: int

    @classmethod
    def of(cls, tensors: Iterable[NewTensor]) -> "ShardLayout":
        """Return the layout of a file of these tensors, in this order where numbers are equally wide."""
        ordered = sorted(tensors, key=lambda tensor: -numpy_dtype(tensor.dtype).itemsize)
        at, begins, entries = 0, {}, {}
        for tensor in ordered:
            begins[tensor.name] = at
            entries[tensor.name] = {
                "dtype": STORED_NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [at, at + tensor.nbytes],
            }
            at += tensor.nbytes
        text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        header = len(text).to_bytes(8, "little") + text
        return cls(header, {name: len(header) + begin for name, begin in begins.items()}, len(header) + at)
