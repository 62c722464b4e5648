"""The meaning of `MambaAdvance` in torch (spec § 3, Mamba-2 mixer, steps 2 and 4)."""

import torch
from torch import Tensor

from ttc.plugins.mamba_block_scan.naive import decay, split_heads

__all__ = ["mamba_advance"]


def mamba_advance(
    xbc: Tensor,
    activated: Tensor,
    dt: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    dt_bias: Tensor,
    a_log: Tensor,
    commit_len: Tensor,
    *,
    G: int,
) -> tuple[Tensor, Tensor]:
    """State after n = commit_len[b] tokens of the block: S_n = exp(c_n)·S₀ + Σ_{s < n} exp(c_n −
    c_s)·dt_s·x_s ⊗ B_s.

    Args:
        xbc, activated: (B, L, F) what `MambaBlockScan` took and gave.  dt: (B, L, H).
        conv_state: (B, F, W−1).  ssm_state: (B, H, P, N) float32.  dt_bias, a_log: (H,).
        commit_len: (B,) int32, 0 … L.  G: groups.

    Returns:
        New convolution state (B, F, W−1): the W−1 raw columns before token n. New scan state (B, H, P, N)
        float32.
    """
    B, L, F = xbc.shape
    columns = torch.cat([conv_state, xbc.transpose(1, 2)], dim=2)
    last_columns = commit_len.long()[:, None] + torch.arange(conv_state.shape[2], device=xbc.device)
    new_conv_state = columns.gather(2, last_columns[:, None, :].expand(B, F, -1))

    H, P, N = ssm_state.shape[1:]
    x, b, _ = split_heads(activated, H, P, N, G)
    step, cumulative = decay(dt, dt_bias, a_log)
    committed = torch.arange(L, device=xbc.device)[None] < commit_len[:, None]
    # The running sum only falls, so its value at token n − 1 is the smallest among the committed; 0 where n =
    # 0.
    total = torch.where(committed[:, None], cumulative, 0.0).amin(-1, keepdim=True)
    left = torch.where(committed[:, None], total - cumulative, -torch.inf).exp() * step
    new_ssm_state = total.exp()[..., None] * ssm_state + (x * left[..., None]).transpose(-1, -2) @ b
    return new_conv_state, new_ssm_state
