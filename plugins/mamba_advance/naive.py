"""The meaning of `MambaAdvance` in torch; see docs/model.md, "Mamba-2"."""

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
    """Return the state after n = commit_len[b] tokens of the block.

        S_n = exp(c_n)·S₀ + Σ_{s < n} exp(c_n − c_s)·dt_s·x_s ⊗ B_s

    This is the state's part of the form that `mamba_scan` computes; c_n is the running sum of dt·A.

    Args:
        xbc: (B, L, F) what `MambaBlockScan` took.
        activated: (B, L, F) what it gave.
        dt: (B, L, H) raw time steps.
        conv_state: (B, F, W−1) raw columns before the block, newest last.
        ssm_state: (B, H, P, N) float32.
        dt_bias: (H,).
        a_log: (H,) log of −A.
        commit_len: (B,) int32, 0 … L.
        G: groups of B and C.

    Returns:
        new_conv_state: (B, F, W−1), the W−1 raw columns before token n.
        new_ssm_state: (B, H, P, N) float32.
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
