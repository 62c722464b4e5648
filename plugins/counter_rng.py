"""Uniform random numbers as a pure function of (seed, row, position, step, vocabulary id).

The same integers come out of numpy, torch, ONNX and a GPU kernel, so a seed reproduces everywhere, whatever
the batch, the order of evaluation or the backend. TensorRT-RTX has no bitwise operators, so the generator is
algebraic: every word is absorbed into a state h in [0, p), p = 2³¹ − 1, by two rounds of x → (x + c)⁵ mod p.
x⁵ permutes the field because 5 does not divide p − 1, and the power is what makes neighbouring counters
unrelated (the round function of the MiMC cipher, Albrecht et al. 2016, with fewer rounds: good statistics are
wanted here, not secrecy). All products stay below 2⁶².

    key     = absorb(absorb(absorb(0, seed mod p), ⌊seed / p⌋ mod p), row)   one per row, on the host
    h       = absorb(absorb(absorb(key, position), step), vocabulary id)
    uniform = (⌊h / 2⁸⌋ + ½) / 2²³                                           exact in float32, never 0 or 1

The functions use only + * % //, so they take Python integers, numpy int64 arrays and torch int64 tensors
alike.
"""

from typing import Any

__all__ = ["MODULUS", "ROUND_CONSTANTS", "absorb", "row_key", "uniform"]

MODULUS = 2**31 - 1
# Arbitrary odd 30-bit numbers (digits of pi and e): they keep 0 and 1, the fixed points of x⁵, from being
# fixed points.
ROUND_CONSTANTS = (314159265, 271828183)


def absorb(state: Any, word: Any) -> Any:
    """Mix one word (an integer in [0, 2³¹)) into a state in [0, 2³¹ − 1)."""
    x = state + word
    for constant in ROUND_CONSTANTS:
        x = (x + constant) % MODULUS
        square = x * x % MODULUS
        x = square * square % MODULUS * x % MODULUS
    return x


def row_key(seed: int, row: int) -> int:
    """Return the generator's key of one row of a batch, an int in [0, 2³¹ − 1)."""
    key: int = absorb(absorb(absorb(0, seed % MODULUS), seed // MODULUS % MODULUS), row)
    return key


def uniform(key: Any, position: Any, step: Any, vocabulary_id: Any) -> Any:
    """Return uniforms in (0, 1), broadcast over the arguments.

    Args:
        key: of each row, from `row_key`; like all arguments an int, or int64.
        position: in the sequence.
        step: denoise steps taken before in this block.
        vocabulary_id: token id.

    Returns:
        Floats of the kind that the arguments divide to; the caller keeps or casts them.
    """
    h = absorb(absorb(absorb(key, position), step), vocabulary_id)
    return (h // 256 + 0.5) / 2**23
