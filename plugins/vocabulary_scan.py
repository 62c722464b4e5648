"""What kernels do with a position's logits: the best token, drawn or not, and the sum of the exponentials.

A program walks a stretch of the vocabulary; its lanes keep their own numbers, which are merged once at the
end. A lane's ids ascend, so what is not larger than its best loses a tie to it.
"""

import triton
import triton.language as tl

from ttc.plugins.counter_rng import MODULUS, ROUND_CONSTANTS
from ttc.plugins.kernel_math import order_key

__all__ = ["draw_state", "scan"]

_MODULUS = tl.constexpr(MODULUS)
_ROUND_0 = tl.constexpr(ROUND_CONSTANTS[0])
_ROUND_1 = tl.constexpr(ROUND_CONSTANTS[1])
_LEAST = tl.constexpr(-3.4028234663852886e38)  # of finite float32: its difference to −inf is a number


@triton.jit
def scan(
    logits_ptr,
    first,
    temperature,
    drawn,
    V: tl.constexpr,
    WIDTH: tl.constexpr,
    MASK_ID: tl.constexpr,
    BLOCK_V: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Return of the logits first … first + WIDTH − 1 of a position: their maximum, the sum of
    exp(logit − maximum), and the `order_key` of the best choice, each a scalar.

    The logit of MASK_ID counts as −inf. A NaN is not in the maximum, but makes the sum NaN; so does +inf. Of
    −inf alone the sum is 0. Where the temperature is above 0 the choice is logit / temperature + Gumbel
    noise.

    Args:
        logits_ptr: the position's first logit; any float.
        first: a number of ids below V, a multiple of WIDTH.
        temperature: of the row, float32.
        drawn: `draw_state` of the position.
        V: size of the vocabulary.
        WIDTH: ids to walk; those from V on are left out.
        MASK_ID: never chosen.
        BLOCK_V: ids at a time.
        STAGES: blocks on their way.
    """
    lanes = tl.arange(0, BLOCK_V)
    highest = tl.full((BLOCK_V,), _LEAST, tl.float32)
    total = tl.zeros((BLOCK_V,), tl.float32)
    best = tl.full((BLOCK_V,), float("-inf"), tl.float32)
    best_id = first + lanes
    hot = temperature > 0.0
    for start in tl.range(0, WIDTH, BLOCK_V, num_stages=STAGES):  # stages by name, or nothing is prefetched
        ids = first + start + lanes
        if V % WIDTH == 0 and WIDTH % BLOCK_V == 0:
            logits = tl.load(logits_ptr + ids)
        else:
            inside = (start + lanes < WIDTH) & (ids < V)
            logits = tl.load(logits_ptr + ids, mask=inside, other=float("-inf"))
        logits = tl.where(ids == MASK_ID, float("-inf"), logits.to(tl.float32))
        # One exponential a logit, of its distance to the maximum: it scales the sum, or is added to it.
        higher = logits > highest
        exponential = tl.exp(tl.where(higher, highest - logits, logits - highest))
        total = tl.where(higher, total * exponential + 1.0, total + exponential)
        highest = tl.where(higher, logits, highest)
        choice = logits
        if hot:
            choice = tl.div_rn(logits, temperature + tl.zeros_like(logits)) + _gumbel(drawn, ids)
        # A NaN is the largest, and the first of them stays.
        better = ((choice > best) | (choice != choice)) & (best == best)
        best = tl.where(better, choice, best)
        best_id = tl.where(better, ids, best_id)
    top = tl.max(highest, 0)
    # A lane that has met nothing but −inf has a sum of 0, and keeps it: no exponent is above 0.
    total = tl.sum(total * tl.exp(highest - top), 0)
    top = tl.where(top == _LEAST, tl.where(total > 0.0, top, float("-inf")), top)
    return top, total, tl.max(order_key(best, best_id), 0)


@triton.jit
def draw_state(row_key, position, step):
    """Return the generator's state of a place and step (`ttc.plugins.counter_rng`), the constant of the next
    round already added: uint32 below 2³¹ − 1.
    """
    at_place = _absorb(row_key.to(tl.uint32), position.to(tl.uint32))
    return _reduce(_absorb(at_place, step.to(tl.uint32)) + _ROUND_0)


@triton.jit
def _absorb(state, word):
    """`counter_rng.absorb` on uint32 below 2³¹."""
    return _rounds(_reduce(_reduce(state + word) + _ROUND_0))


@triton.jit
def _rounds(x):
    """The rest of `counter_rng.absorb` after the first constant."""
    return _fifth_power(_reduce(_fifth_power(x) + _ROUND_1))


@triton.jit
def _gumbel(drawn, ids):
    """Return −log(−log u) of the uniforms of these ids."""
    hashed = _rounds(_reduce(drawn + ids.to(tl.uint32)))
    uniform = ((hashed >> 8).to(tl.float32) + 0.5) * (1.0 / 8388608.0)
    return -tl.log(-tl.log(uniform))


@triton.jit
def _fifth_power(x):
    square = _times(x, x)
    return _times(_times(square, square), x)


@triton.jit
def _times(a, b):
    """a·b mod 2³¹ − 1 of uint32 below that: 2³¹ ≡ 1, so the halves of the product are added."""
    product = a.to(tl.uint64) * b.to(tl.uint64)
    return _reduce((product & _MODULUS).to(tl.uint32) + (product >> 31).to(tl.uint32))


@triton.jit
def _reduce(x):
    """X mod 2³¹ − 1 of uint32."""
    x = (x & _MODULUS) + (x >> 31)
    return tl.where(x >= _MODULUS, x - _MODULUS, x)
