"""The meaning of `ttc.plugins.residual_norm` in torch: its parts, one after the other.

Shapes: x, out, shared (B, L, D), rows (T·K, D) float32, weights and grouped_rows (T, K) with T = B·L,
modulation (B, 3, D), t (B,), table of this layer and next_table of the next (3, D), weight (D,). All return
the stream and its norm, both (B, L, D).
"""

from torch import Tensor

from ttc.plugins.moe_experts.naive import moe_combine
from ttc.plugins.residual_stream import naive as stream_ops

__all__ = [
    "gated_mixture_residual_modulated_norm",
    "gated_mixture_residual_norm",
    "gated_mixture_residual_norm_modulated",
    "gated_residual_modulated_norm",
    "gated_residual_norm",
    "gated_residual_norm_modulated",
    "mixture_residual_norm",
    "residual_norm",
]

Both = tuple[Tensor, Tensor]


def residual_norm(x: Tensor, out: Tensor, weight: Tensor, *, epsilon: float) -> Both:
    """Return x + out and its norm."""
    stream = x + out
    return stream, *stream_ops.stream_norm(stream, weight, epsilon=epsilon)


def mixture_residual_norm(
    x: Tensor,
    rows: Tensor,
    weights: Tensor,
    grouped_rows: Tensor,
    shared: Tensor,
    weight: Tensor,
    *,
    epsilon: float,
) -> Both:
    """Return x + Σ weights·rows + shared and its norm."""
    (stream,) = stream_ops.mixture_residual(x, _routed(x, rows, weights, grouped_rows), shared)
    return stream, *stream_ops.stream_norm(stream, weight, epsilon=epsilon)


def gated_residual_norm(
    x: Tensor,
    out: Tensor,
    modulation: Tensor,
    t: Tensor,
    table: Tensor,
    weight: Tensor,
    *,
    epsilon: float,
) -> Both:
    """Return x + gate·out and its norm."""
    (stream,) = stream_ops.gated_residual(x, out, modulation, t, table)
    return stream, *stream_ops.stream_norm(stream, weight, epsilon=epsilon)


def gated_residual_modulated_norm(
    x: Tensor,
    out: Tensor,
    modulation: Tensor,
    t: Tensor,
    table: Tensor,
    next_table: Tensor,
    weight: Tensor,
    *,
    epsilon: float,
) -> Both:
    """Return x + gate·out and the norm of it modulated."""
    (stream,) = stream_ops.gated_residual(x, out, modulation, t, table)
    return stream, *stream_ops.modulated_norm(stream, modulation, t, next_table, weight, epsilon=epsilon)


def gated_residual_norm_modulated(
    x: Tensor,
    out: Tensor,
    modulation: Tensor,
    t: Tensor,
    table: Tensor,
    next_table: Tensor,
    weight: Tensor,
    *,
    epsilon: float,
) -> Both:
    """Return x + gate·out and its norm, modulated."""
    (stream,) = stream_ops.gated_residual(x, out, modulation, t, table)
    return stream, *stream_ops.norm_modulated(stream, modulation, t, next_table, weight, epsilon=epsilon)


def gated_mixture_residual_norm(
    x: Tensor,
    rows: Tensor,
    weights: Tensor,
    grouped_rows: Tensor,
    shared: Tensor,
    modulation: Tensor,
    t: Tensor,
    table: Tensor,
    weight: Tensor,
    *,
    epsilon: float,
) -> Both:
    """Return x + gate·(Σ weights·rows + shared) and its norm."""
    routed = _routed(x, rows, weights, grouped_rows)
    (stream,) = stream_ops.gated_mixture_residual(x, routed, shared, modulation, t, table)
    return stream, *stream_ops.stream_norm(stream, weight, epsilon=epsilon)


def gated_mixture_residual_modulated_norm(
    x: Tensor,
    rows: Tensor,
    weights: Tensor,
    grouped_rows: Tensor,
    shared: Tensor,
    modulation: Tensor,
    t: Tensor,
    table: Tensor,
    next_table: Tensor,
    weight: Tensor,
    *,
    epsilon: float,
) -> Both:
    """Return x + gate·(Σ weights·rows + shared) and the norm of it modulated."""
    routed = _routed(x, rows, weights, grouped_rows)
    (stream,) = stream_ops.gated_mixture_residual(x, routed, shared, modulation, t, table)
    return stream, *stream_ops.modulated_norm(stream, modulation, t, next_table, weight, epsilon=epsilon)


def gated_mixture_residual_norm_modulated(
    x: Tensor,
    rows: Tensor,
    weights: Tensor,
    grouped_rows: Tensor,
    shared: Tensor,
    modulation: Tensor,
    t: Tensor,
    table: Tensor,
    next_table: Tensor,
    weight: Tensor,
    *,
    epsilon: float,
) -> Both:
    """Return x + gate·(Σ weights·rows + shared) and its norm, modulated."""
    routed = _routed(x, rows, weights, grouped_rows)
    (stream,) = stream_ops.gated_mixture_residual(x, routed, shared, modulation, t, table)
    return stream, *stream_ops.norm_modulated(stream, modulation, t, next_table, weight, epsilon=epsilon)


def _routed(x: Tensor, rows: Tensor, weights: Tensor, grouped_rows: Tensor) -> Tensor:
    return moe_combine(rows, weights, grouped_rows)[0].view(x.shape)
