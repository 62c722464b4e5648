"""`PageWrite` in standard ONNX operators."""

from collections.abc import Mapping
from typing import Any

from ttc.plugins.onnx_text import render

__all__ = ["page_write"]

_TEXT = """
PageWrite (keys, values, key_pages, value_pages, pages, lengths) => (new_key_pages, new_value_pages)
{
    start = Constant <value: tensor = int32 {0}> ()
    delta = Constant <value: tensor = int32 {1}> ()
    L = Shape <start: int = 1, end: int = 2> (keys)
    Z = Shape <start: int = 2, end: int = 3> (key_pages)
    L_scalar = Squeeze (L)
    Z_scalar = Squeeze (Z)
    L_int = Cast <to: int = 6> (L_scalar)
    Z_int = Cast <to: int = 6> (Z_scalar)
    along = Range (start, L_int, delta)
    second = Constant <value_ints: ints = [1]> ()
    first = Unsqueeze (lengths, second)
    positions = Add (first, along)
    column = Div (positions, Z_int)
    within = Mod (positions, Z_int)
    page = GatherElements <axis: int = 1> (pages, column)
    last = Constant <value_ints: ints = [2]> ()
    page_last = Unsqueeze (page, last)
    within_last = Unsqueeze (within, last)
    index_int = Concat <axis: int = 2> (page_last, within_last)
    index = Cast <to: int = 7> (index_int)
    by_head = Constant <value_ints: ints = [0, 0, $J, $Y]> ()
    k_bljy = Reshape (keys, by_head)
    v_bljy = Reshape (values, by_head)
    k_uzjy = Transpose <perm: ints = [0, 2, 1, 3]> (key_pages)
    v_uzjy = Transpose <perm: ints = [0, 2, 1, 3]> (value_pages)
    k_written = ScatterND (k_uzjy, index, k_bljy)
    v_written = ScatterND (v_uzjy, index, v_bljy)
    new_key_pages = Transpose <perm: ints = [0, 2, 1, 3]> (k_written)
    new_value_pages = Transpose <perm: ints = [0, 2, 1, 3]> (v_written)
}
"""


def page_write(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `PageWrite` for these fixed dimensions (J, Y)."""
    return render(_TEXT, {"J": values["J"], "Y": values["Y"]})
