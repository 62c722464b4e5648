"""Move a Mamba layer's state past the first n tokens of a block that was read; n may differ per row, 0
included.
"""

from ttc.plugins.ops import OpSpec

__all__ = ["MAMBA_ADVANCE", "OPS", "ORDER"]

MAMBA_ADVANCE = OpSpec.make(
    __name__,
    "MambaAdvance",
    "Convolution and scan state after the first commit_len tokens of a block.",
    inputs=[
        "xbc: compute (B, L, H*P+2*G*N)",
        "activated: compute (B, L, H*P+2*G*N)",
        "dt: compute (B, L, H)",
        "conv_state: compute (B, H*P+2*G*N, W-1)",
        "ssm_state: float32 (B, H, P, N)",
        "dt_bias: compute (H)",
        "a_log: compute (H)",
        "commit_len: int32 (B)",
    ],
    outputs=["new_conv_state: compute (B, H*P+2*G*N, W-1)", "new_ssm_state: float32 (B, H, P, N)"],
    attributes={"G": "int"},
)
OPS = (MAMBA_ADVANCE,)
ORDER = 40
