"""A Mamba mixer between its projections, as a program of a Triton kernel: `ttc.plugins.mamba_mixer`.

A program has one head's BLOCK_P rows of the scan state and walks the block in chunks of BLOCK_L tokens, the
state in registers: within a chunk the closed form of `MambaScan`'s naive function, from one to the next the
recurrence. So time grows linearly with the tokens. The convolution of a short block is made where it is read,
a head's x and its group's B and C, by every program anew: some 1,300 multiplications a token, in place of a
tensor that goes to memory and back.

In bfloat16 all products are the matrix units', and as good as float32: x, B and C are bfloat16 numbers, and
the float32 numbers they are multiplied by are taken in three bfloat16 parts, whose products are exact and
whose sums are float32. Other dtypes, and the interpreter, multiply in float32.
"""

import triton
import triton.language as tl

from ttc.plugins.kernel_math import chunk_decay

__all__ = ["place_of", "walk"]


@triton.jit
def place_of(row_ptr, R):
    """Where a row's state lies among R; a number that leads outside is held inside."""
    return tl.minimum(tl.maximum(tl.load(row_ptr), 0), R - 1).to(tl.int64)


@triton.jit
def walk(
    xbc_ptr,
    dt_ptr,
    conv_state_ptr,
    ssm_state_ptr,
    place,
    conv_weight_ptr,
    conv_bias_ptr,
    dt_bias_ptr,
    a_log_ptr,
    d_ptr,
    L,
    y_ptr,
    new_ssm_state_ptr,
    new_place,
    count,
    F: tl.constexpr,
    W: tl.constexpr,
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    G: tl.constexpr,
    XBC_STRIDE: tl.constexpr,
    DT_STRIDE: tl.constexpr,
    SPLIT: tl.constexpr,
    UPCAST: tl.constexpr,
    CONVOLVED: tl.constexpr,
    ADVANCE: tl.constexpr,
    OVER: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Y of one head's BLOCK_P rows, and where ADVANCE their state after `count` tokens. Program (h, p, b).

    xbc: (B, L, F), channels x (H·P) | B (G·N) | C (G·N), CONVOLVED: activated already; dt: (B, L, H); their
    tokens XBC_STRIDE and DT_STRIDE elements apart.  conv_state: (…, F, W − 1) and ssm_state: (…, H, P, N)
    float32, the row's own at `place`.  new_ssm_state: (…, H, P, N), the row's own at `new_place`; OVER: it is
    ssm_state itself.  y: (B, L, H·P).
    """
    head = tl.program_id(0)
    row = tl.program_id(2).to(tl.int64)
    parts = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    states = tl.arange(0, SLICES)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    chunk = tl.arange(0, BLOCK_L)
    own = parts < P
    xbc_ptr += row * L * XBC_STRIDE
    dt_ptr += row * L * DT_STRIDE + head
    conv_state_ptr += place * F * (W - 1)
    ssm_state_ptr += place * H * P * N
    of_x = (head * P + parts)[None, None, :]
    of_b = (H * P + head // (H // G) * N + states)[:, None, :]
    at_state = (head * P + parts)[None, :, None] * N + states[:, None, :]
    dense = (states < N)[:, None, :]
    in_state = own[None, :, None] & dense
    state = tl.load(ssm_state_ptr + at_state, mask=in_state, other=0.0)
    skip = tl.load(d_ptr + head).to(tl.float32)
    if ADVANCE:
        new_ssm_state_ptr += new_place * H * P * N
    if ADVANCE and not OVER:  # noqa: SIM102  # constants
        if count == 0:
            tl.store(new_ssm_state_ptr + at_state, state, mask=in_state)
    for start in range(0, L, BLOCK_L):
        tokens = start + chunk
        live = tokens < L
        at = tokens[None, :, None]
        b = _activated(
            xbc_ptr,
            conv_state_ptr,
            conv_weight_ptr,
            conv_bias_ptr,
            at,
            at < L,
            of_b,
            dense,
            start,
            W,
            XBC_STRIDE,
            CONVOLVED,
        )
        c = _activated(
            xbc_ptr,
            conv_state_ptr,
            conv_weight_ptr,
            conv_bias_ptr,
            at,
            at < L,
            of_b + G * N,
            dense,
            start,
            W,
            XBC_STRIDE,
            CONVOLVED,
        )
        x = _activated(
            xbc_ptr,
            conv_state_ptr,
            conv_weight_ptr,
            conv_bias_ptr,
            at,
            at < L,
            of_x,
            own[None, None, :],
            start,
            W,
            XBC_STRIDE,
            CONVOLVED,
        )
        x = tl.reshape(x, (BLOCK_L, BLOCK_P))
        step, total = chunk_decay(dt_ptr + tokens * DT_STRIDE, dt_bias_ptr, a_log_ptr, head, live)
        if UPCAST:
            b, c, x = b.to(tl.float32), c.to(tl.float32), x.to(tl.float32)
        scores = tl.sum(tl.dot(c, tl.permute(b, (0, 2, 1)), input_precision="ieee"), 0)
        # exp's argument is never positive where it counts; the mask goes in before, where it could overflow.
        passed = tl.where(chunk[:, None] >= chunk[None, :], total[:, None] - total[None, :], float("-inf"))
        scores *= tl.exp(passed) * step[None, :]
        from_state = tl.zeros((SLICES, BLOCK_L, BLOCK_P), tl.float32)
        if SPLIT:
            high, middle, low = _in_three(tl.permute(state, (0, 2, 1)), c.dtype)
            from_state = tl.dot(c, high, tl.dot(c, middle, tl.dot(c, low, from_state)))
        else:
            from_state = tl.dot(
                c.to(tl.float32), tl.permute(state, (0, 2, 1)), from_state, input_precision="ieee"
            )
        y = tl.sum(from_state, 0) * tl.exp(total)[:, None] + x.to(tl.float32) * skip
        y = _times(scores, x, y, SPLIT)
        target = y_ptr + (row * L + tokens)[:, None] * (H * P) + (head * P + parts)[None, :]
        tl.store(target, y.to(y_ptr.dtype.element_ty), mask=live[:, None] & own[None, :])
        if ADVANCE:  # noqa: SIM102  # a constant
            if (start < count) & (count <= start + BLOCK_L):
                due = tokens < count
                step_due, total_due = chunk_decay(
                    dt_ptr + tokens * DT_STRIDE, dt_bias_ptr, a_log_ptr, head, due
                )
                x_due = tl.where(due[:, None], x, 0.0)
                b_due = tl.where(due[None, :, None], b, 0.0)
                after = _moved(state, x_due, b_due, step_due, total_due, chunk, SLICES, SPLIT)
                tl.store(new_ssm_state_ptr + at_state, after, mask=in_state)
        if start + BLOCK_L < L:
            state = _moved(state, x, b, step, total, chunk, SLICES, SPLIT)


@triton.jit
def _activated(
    xbc_ptr,
    conv_state_ptr,
    weight_ptr,
    bias_ptr,
    tokens,
    live,
    channels,
    real,
    start,
    W: tl.constexpr,
    XBC_STRIDE: tl.constexpr,
    CONVOLVED: tl.constexpr,
):
    """SiLU of the convolution of some channels of a chunk, in the compute dtype; 0 where there is none.

    tokens, live: (1, BLOCK_L, 1).  channels, real: (SLICES, 1, columns).
    """
    kind: tl.constexpr = xbc_ptr.dtype.element_ty
    inside = live & real
    if CONVOLVED:
        return tl.load(xbc_ptr + tokens * XBC_STRIDE + channels, mask=inside, other=0.0)
    total = tl.load(bias_ptr + channels, mask=real, other=0.0).to(tl.float32)
    for k in tl.static_range(W):
        source = tokens + (k - (W - 1))  # negative: a column of before the block
        column = tl.load(xbc_ptr + source * XBC_STRIDE + channels, mask=inside & (source >= 0), other=0.0).to(
            tl.float32
        )
        if k < W - 1:  # noqa: SIM102  # a constant
            if start == 0:
                old = tl.load(
                    conv_state_ptr + channels * (W - 1) + (source + (W - 1)),
                    mask=inside & (source < 0),
                    other=0.0,
                )
                column += old.to(tl.float32)
        weight = tl.load(weight_ptr + channels * W + k, mask=real, other=0.0).to(tl.float32)
        total = total + column * weight
    return tl.where(inside, total / (1.0 + tl.exp(-total)), 0.0).to(kind)


@triton.jit
def _moved(state, x, b, step, total, chunk, SLICES: tl.constexpr, SPLIT: tl.constexpr):
    """The state after a chunk whose steps are 0 where a token does not count."""
    BLOCK_L: tl.constexpr = x.shape[0]
    BLOCK_P: tl.constexpr = x.shape[1]
    last = tl.sum(tl.where(chunk == BLOCK_L - 1, total, 0.0), 0)
    left = tl.exp(last - total) * step
    weighted = tl.trans(x.to(tl.float32) * left[:, None])[None, :, :]
    weighted = tl.broadcast_to(weighted, (SLICES, BLOCK_P, BLOCK_L))
    return _times(weighted, b, tl.exp(last) * state, SPLIT)


@triton.jit
def _times(wide, exact, total, SPLIT: tl.constexpr):
    """total + wide · exact, of float32 numbers and numbers of the compute dtype."""
    if SPLIT:
        high, middle, low = _in_three(wide, exact.dtype)
        return tl.dot(high, exact, tl.dot(middle, exact, tl.dot(low, exact, total)))
    return tl.dot(wide, exact.to(tl.float32), total, input_precision="ieee")


@triton.jit
def _in_three(wide, kind: tl.constexpr):
    """Three bfloat16 numbers whose sum is the float32 number, where that is finite."""
    high = wide.to(kind)
    rest = wide - high.to(tl.float32)
    middle = rest.to(kind)
    return high, middle, (rest - middle.to(tl.float32)).to(kind)
