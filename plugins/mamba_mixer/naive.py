"""The meaning of the mixers in torch: their parts, one after the other, on the rows' own states."""

from torch import Tensor

from ttc.plugins.mamba_advance.naive import mamba_advance
from ttc.plugins.mamba_block_scan.naive import mamba_block_scan, mamba_scan

__all__ = ["mamba_long_mixer", "mamba_mixer", "mamba_reading"]


def mamba_reading(
    xbc: Tensor,
    dt: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    rows: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    a_log: Tensor,
    d: Tensor,
    *,
    G: int,
    W: int,
) -> tuple[Tensor]:
    """Return y (B, L, H·P); arguments as of `mamba_block_scan`, but for the states: (R, …), of which row
    b has row rows[b].
    """
    own = _of(rows, conv_state, ssm_state)
    scanned = mamba_block_scan(xbc, dt, *own, conv_weight, conv_bias, dt_bias, a_log, d, G=G, W=W)
    return (scanned[0],)


def mamba_mixer(
    xbc: Tensor,
    dt: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    rows: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    a_log: Tensor,
    d: Tensor,
    commit_len: Tensor,
    *,
    G: int,
    W: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (B, L, H·P), and both states after commit_len (B,) tokens, (B, …); arguments as of
    `mamba_reading` and `mamba_advance`.
    """
    own = _of(rows, conv_state, ssm_state)
    y, activated = mamba_block_scan(xbc, dt, *own, conv_weight, conv_bias, dt_bias, a_log, d, G=G, W=W)
    return y, *mamba_advance(xbc, activated, dt, *own, dt_bias, a_log, commit_len, G=G)


def mamba_long_mixer(
    xbc: Tensor,
    activated: Tensor,
    dt: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    rows: Tensor,
    dt_bias: Tensor,
    a_log: Tensor,
    d: Tensor,
    commit_len: Tensor,
    *,
    G: int,
    W: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `mamba_mixer` does; activated: (B, L, F), xbc after convolution and SiLU."""
    own = _of(rows, conv_state, ssm_state)
    (y,) = mamba_scan(activated, dt, own[1], dt_bias, a_log, d, G=G)
    return y, *mamba_advance(xbc, activated, dt, *own, dt_bias, a_log, commit_len, G=G)


def _of(rows: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor]:
    index = rows.long()
    return conv_state[index], ssm_state[index]
