"""Mamba-2 over one block: causal convolution with SiLU, then the scan from a seeded state. The state itself
does not move.

One composite op of two parts, `MambaConv` and `MambaScan`. `activated` is an output because `MambaAdvance`
starts from it.
"""

from ttc.plugins.ops import OpSpec

__all__ = ["MAMBA_BLOCK_SCAN", "MAMBA_CONV", "MAMBA_SCAN", "OPS", "ORDER"]

MAMBA_CONV = OpSpec.make(
    __name__,
    "MambaConv",
    "Causal depthwise convolution seeded with the last W−1 raw columns, then SiLU.",
    inputs=[
        "xbc: compute (B, L, F)",
        "conv_state: compute (B, F, W-1)",
        "conv_weight: compute (F, 1, W)",
        "conv_bias: compute (F)",
    ],
    outputs=["activated: compute (B, L, F)"],
    attributes={"W": "int"},
)
MAMBA_SCAN = OpSpec.make(
    __name__,
    "MambaScan",
    "Selective state-space scan of a block from a seeded state, in float32, plus the D skip.",
    inputs=[
        "activated: compute (B, L, H*P+2*G*N)",
        "dt: compute (B, L, H)",
        "ssm_state: float32 (B, H, P, N)",
        "dt_bias: compute (H)",
        "a_log: compute (H)",
        "d: compute (H)",
    ],
    outputs=["y: compute (B, L, H*P)"],
    attributes={"G": "int"},
)
MAMBA_BLOCK_SCAN = OpSpec.make(
    __name__,
    "MambaBlockScan",
    "A Mamba-2 mixer between its projections, read-only in the state.",
    inputs=[
        "xbc: compute (B, L, H*P+2*G*N)",
        "dt: compute (B, L, H)",
        "conv_state: compute (B, H*P+2*G*N, W-1)",
        "ssm_state: float32 (B, H, P, N)",
        "conv_weight: compute (H*P+2*G*N, 1, W)",
        "conv_bias: compute (H*P+2*G*N)",
        "dt_bias: compute (H)",
        "a_log: compute (H)",
        "d: compute (H)",
    ],
    outputs=["y: compute (B, L, H*P)", "activated: compute (B, L, H*P+2*G*N)"],
    attributes={"G": "int", "W": "int"},
    parts=("MambaConv", "MambaScan"),
)
OPS = (MAMBA_BLOCK_SCAN, MAMBA_CONV, MAMBA_SCAN)
ORDER = 30
