"""What a block adds to its rows' context: its keys and values, into the pages that hold those rows' tokens.

In one launch for keys and values of a layer. A dense cache (B, J, C, Y) is one page a row.
"""

from ttc.plugins.ops import OpSpec

__all__ = ["OPS", "ORDER", "PAGE_WRITE"]

PAGE_WRITE = OpSpec.make(
    __name__,
    "PageWrite",
    "The pages with a block's keys and values from token `lengths` of each row on.",
    inputs=[
        "keys: compute (B, L, J*Y)",
        "values: compute (B, L, J*Y)",
        "key_pages: compute (U, J, Z, Y)",
        "value_pages: compute (U, J, Z, Y)",
        "pages: int32 (B, O)",
        "lengths: int32 (B)",
    ],
    outputs=["new_key_pages: compute (U, J, Z, Y)", "new_value_pages: compute (U, J, Z, Y)"],
    glue=True,
    in_place=True,
)
OPS = (PAGE_WRITE,)
ORDER = 65
