"""The meaning of `MambaBlockScan` and its two parts in torch; see docs/model.md, "Mamba-2"."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["decay", "mamba_block_scan", "mamba_conv", "mamba_scan", "mamba_scan_recurrent", "split_heads"]


def mamba_block_scan(
    xbc: Tensor,
    dt: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    a_log: Tensor,
    d: Tensor,
    *,
    G: int,
    W: int,
) -> tuple[Tensor, Tensor]:
    """Return the convolution and the scan of one block; what has no dtype here has the compute dtype.

    Args:
        xbc: (B, L, F) raw convolution inputs, channels x (H·P) | B (G·N) | C (G·N).
        dt: (B, L, H) raw time steps.
        conv_state: (B, F, W−1) raw columns before the block, newest last.
        ssm_state: (B, H, P, N) float32.
        conv_weight: (F, 1, W).
        conv_bias: (F,).
        dt_bias: (H,).
        a_log: (H,) log of −A.
        d: (H,) weight of the skip.
        G: groups of B and C; a group serves H/G consecutive heads.
        W: convolution width.

    Returns:
        y: (B, L, H·P) in xbc's dtype.
        activated: (B, L, F) the output of the convolution, in xbc's dtype.
    """
    (activated,) = mamba_conv(xbc, conv_state, conv_weight, conv_bias, W=W)
    (y,) = mamba_scan(activated, dt, ssm_state, dt_bias, a_log, d, G=G)
    return y, activated


def mamba_conv(
    xbc: Tensor, conv_state: Tensor, conv_weight: Tensor, conv_bias: Tensor, *, W: int
) -> tuple[Tensor]:
    """Return SiLU of the causal depthwise convolution: (B, L, F)."""
    L = xbc.shape[1]
    columns = torch.cat([conv_state.transpose(1, 2), xbc], dim=1)
    convolved = sum((columns[:, k : k + L] * conv_weight[:, 0, k] for k in range(W)), conv_bias)
    return (functional.silu(convolved),)


def mamba_scan(
    activated: Tensor, dt: Tensor, ssm_state: Tensor, dt_bias: Tensor, a_log: Tensor, d: Tensor, *, G: int
) -> tuple[Tensor]:
    """Return the scan in closed form.

        y_t = exp(c_t)·S₀C_t + Σ_{s ≤ t} exp(c_t − c_s)·dt_s·(B_s·C_t)·x_s + D·x_t

    This is the state space duality form of Mamba-2 (Dao and Gu 2024) for one chunk; c_t is the running sum of
    dt·A. Exact for L up to a few hundred; quadratic in L, so long prompts come in chunks.
    """
    H, P, N = ssm_state.shape[1:]
    x, b, c = split_heads(activated, H, P, N, G)
    step, cumulative = decay(dt, dt_bias, a_log)
    # seen[b, h, t, s]: how much of the input of s is left at t; the mask goes in before exp, which could
    # overflow above it.
    seen = cumulative[..., :, None] - cumulative[..., None, :]
    causal = torch.ones(seen.shape[-2:], dtype=torch.bool, device=seen.device).tril()
    seen = torch.where(causal, seen, -torch.inf).exp() * step[..., None, :]
    y = (c @ b.transpose(-1, -2) * seen) @ x
    y = y + (c @ ssm_state.transpose(-1, -2)) * cumulative.exp()[..., None]
    y = y + x * d.float()[:, None, None]
    return (y.transpose(1, 2).flatten(2).to(activated.dtype),)


def mamba_scan_recurrent(
    activated: Tensor, dt: Tensor, ssm_state: Tensor, dt_bias: Tensor, a_log: Tensor, d: Tensor, *, G: int
) -> tuple[Tensor, Tensor]:
    """Return the scan as the recurrence that defines it, token by token, and the state after the last token.

        S_t = exp(dt_t·A)·S_{t−1} + dt_t·x_t ⊗ B_t
        y_t = S_t·C_t + D·x_t

    The yardstick of `mamba_scan`.
    """
    H, P, N = ssm_state.shape[1:]
    x, b, c = split_heads(activated, H, P, N, G)
    step = functional.softplus(dt.float() + dt_bias.float()).transpose(1, 2)
    rate = -a_log.float().exp()[:, None]
    state, outputs = ssm_state, []
    for t in range(activated.shape[1]):
        left = torch.exp(step[:, :, t, None] * rate)[..., None]
        state = left * state + step[:, :, t, None, None] * x[:, :, t, :, None] * b[:, :, t, None, :]
        outputs.append((state * c[:, :, t, None, :]).sum(-1) + d.float()[:, None] * x[:, :, t])
    y = torch.stack(outputs, dim=1).flatten(2)
    return y.to(activated.dtype), state


def split_heads(activated: Tensor, H: int, P: int, N: int, G: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return x (B, H, L, P), B and C (B, H, L, N) of the channels, float32, each group for all its heads."""
    x, b, c = activated.float().split([H * P, G * N, G * N], dim=-1)
    x = x.unflatten(-1, (H, P)).transpose(1, 2)
    b = b.unflatten(-1, (G, N)).transpose(1, 2).repeat_interleave(H // G, dim=1)
    c = c.unflatten(-1, (G, N)).transpose(1, 2).repeat_interleave(H // G, dim=1)
    return x, b, c


def decay(dt: Tensor, dt_bias: Tensor, a_log: Tensor) -> tuple[Tensor, Tensor]:
    """Return the steps softplus(dt + dt_bias), not clamped, and the running sum of step·A.

    Args:
        dt: (B, L, H) raw time steps.
        dt_bias: (H,).
        a_log: (H,) log of −A.

    Returns:
        Both (B, H, L) float32.
    """
    step = functional.softplus(dt.float() + dt_bias.float()).transpose(1, 2)
    return step, (step * -a_log.float().exp()[:, None]).cumsum(-1)
