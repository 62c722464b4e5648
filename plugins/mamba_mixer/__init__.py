"""A Mamba-2 mixer between its projections in one launch: convolution, scan and, in the context tower, the
move of the state.

    MambaReading    what the denoiser needs: y; the state stays
    MambaMixer      what the context tower needs: y, and both states after the first commit_len tokens
    MambaLongMixer  the same of many tokens behind `MambaConv`, so that not every head convolves anew

They do what `MambaConv`, `MambaScan` and `MambaAdvance` do one after the other; the first two without writing
the activated convolution to memory. The states are those of the rows of a pool: `rows` says where each row of
the call has its own, and 0 … B − 1 where there is nothing but those. New states come without the pool's other
rows; the kernel can write the scan's over the pool's instead. The torch backend on a GPU runs them
(`ttc.model.fused_towers`); engines have the parts.
"""

from ttc.plugins.ops import OpSpec

__all__ = ["MAMBA_LONG_MIXER", "MAMBA_MIXER", "MAMBA_READING", "OPS", "ORDER"]

_BLOCK = [
    "xbc: compute (B, L, H*P+2*G*N)",
    "dt: compute (B, L, H)",
    "conv_state: compute (R, H*P+2*G*N, W-1)",
    "ssm_state: float32 (R, H, P, N)",
    "rows: int32 (B)",
    "conv_weight: compute (H*P+2*G*N, 1, W)",
    "conv_bias: compute (H*P+2*G*N)",
    "dt_bias: compute (H)",
    "a_log: compute (H)",
    "d: compute (H)",
]

_MOVED = [
    "y: compute (B, L, H*P)",
    "new_conv_state: compute (B, H*P+2*G*N, W-1)",
    "new_ssm_state: float32 (B, H, P, N)",
]

MAMBA_READING = OpSpec.make(
    __name__,
    "MambaReading",
    "A Mamba-2 mixer between its projections; the state stays as it is.",
    inputs=_BLOCK,
    outputs=["y: compute (B, L, H*P)"],
    attributes={"G": "int", "W": "int"},
    parts=("MambaConv", "MambaScan"),
    fused=True,
)
MAMBA_MIXER = OpSpec.make(
    __name__,
    "MambaMixer",
    "A Mamba-2 mixer between its projections, and its states after the first commit_len tokens.",
    inputs=[*_BLOCK, "commit_len: int32 (B)"],
    outputs=_MOVED,
    attributes={"G": "int", "W": "int"},
    parts=("MambaConv", "MambaScan", "MambaAdvance"),
    fused=True,
)
MAMBA_LONG_MIXER = OpSpec.make(
    __name__,
    "MambaLongMixer",
    "A Mamba-2 mixer behind its convolution, and its states after the first commit_len tokens.",
    inputs=[
        "xbc: compute (B, L, H*P+2*G*N)",
        "activated: compute (B, L, H*P+2*G*N)",
        "dt: compute (B, L, H)",
        "conv_state: compute (R, H*P+2*G*N, W-1)",
        "ssm_state: float32 (R, H, P, N)",
        "rows: int32 (B)",
        "dt_bias: compute (H)",
        "a_log: compute (H)",
        "d: compute (H)",
        "commit_len: int32 (B)",
    ],
    outputs=_MOVED,
    attributes={"G": "int", "W": "int"},
    parts=("MambaScan", "MambaAdvance"),
    fused=True,
)
OPS = (MAMBA_READING, MAMBA_MIXER, MAMBA_LONG_MIXER)
ORDER = 41
