"""Functions that kernels share. Arithmetic is float32 and int64; callers convert."""

import triton
import triton.language as tl

__all__ = [
    "LOWEST_BITS",
    "chunk_decay",
    "decode_index",
    "decode_value",
    "order_bits",
    "order_key",
    "softplus",
]

LOWEST_BITS = tl.constexpr(-(2**31))  # below every number's


@triton.jit
def order_bits(values):
    """Return int32 numbers in the order of the values.

    NaN is the largest of all and −0 equals 0, as in torch's sort and argmax.
    """
    values = tl.where(values == 0.0, 0.0, values)
    bits = values.to(tl.int32, bitcast=True)
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return tl.where(values != values, 0x7FFFFFFF, bits)


@triton.jit
def order_key(values, indices):
    """Return int64 keys whose maximum is the largest value, at the lowest index among equals.

    The key's upper half is `order_bits`, its lower half 2³¹ − 1 − index, from which `decode_index` gives the
    index.
    """
    return (order_bits(values).to(tl.int64) << 32) + (0x7FFFFFFF - indices).to(tl.int64)


@triton.jit
def decode_index(keys):
    """Return the indices (int32) in keys of `order_key`."""
    return 0x7FFFFFFF - (keys & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def decode_value(keys):
    """Return the values (float32) in keys of `order_key`; NaN for every NaN, 0 for −0."""
    bits = (keys >> 32).to(tl.int32)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)


@triton.jit
def softplus(x):
    """Return log(1 + eˣ), as torch: x itself above 20.

    log1p from log: with u = 1 + e rounded, log(u)·e / (u − 1) has the rounding of u cancel.
    """
    e = tl.exp(tl.minimum(x, 20.0))
    u = 1.0 + e
    small = u == 1.0
    log1p = tl.where(small, e, tl.log(u) * e / tl.where(small, 1.0, u - 1.0))
    return tl.where(x > 20.0, x, tl.where(x != x, x, log1p))


@triton.jit
def chunk_decay(dt_ptr, dt_bias_ptr, a_log_ptr, head, live):
    """Return the steps softplus(dt + bias) of a chunk, 0 where not live, and the running sum of step·A."""
    bias = tl.load(dt_bias_ptr + head).to(tl.float32)
    rate = -tl.exp(tl.load(a_log_ptr + head).to(tl.float32))
    step = softplus(tl.load(dt_ptr, mask=live, other=0.0).to(tl.float32) + bias)
    step = tl.where(live, step, 0.0)
    return step, tl.cumsum(step * rate, 0)
