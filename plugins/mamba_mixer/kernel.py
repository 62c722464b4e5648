"""Triton kernels of `MambaReading`, `MambaMixer` and `MambaLongMixer`.

A program walks the block with its part of the scan state (`ttc.plugins.mamba_walk`).

The new scan state may lie over the old ones, at the rows where those are: a program reads and writes its own
part of its row only, and nothing where nothing is committed. The convolution's may not, since other heads of
the group read the columns of B and C.
"""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.plugins.launch import KernelSpec, Problem, Tile, cdiv, power_of_two
from ttc.plugins.mamba_mixer import MAMBA_LONG_MIXER, MAMBA_MIXER, MAMBA_READING
from ttc.plugins.mamba_walk import place_of, walk
from ttc.plugins.ops import OpSpec

__all__ = ["long_walk", "mamba_long_mixer", "mamba_mixer", "mamba_reading", "mix", "mix_long", "read"]


@triton.jit(do_not_specialize=["L", "R"])
def read(
    xbc_ptr,
    dt_ptr,
    conv_state_ptr,
    ssm_state_ptr,
    rows_ptr,
    conv_weight_ptr,
    conv_bias_ptr,
    dt_bias_ptr,
    a_log_ptr,
    d_ptr,
    L,
    R,
    y_ptr,
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
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """See `ttc.plugins.mamba_walk.walk`."""
    row = tl.program_id(2)
    place = place_of(rows_ptr + row, R)
    walk(
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
        ssm_state_ptr,  # not written
        place,
        0,
        F,
        W,
        H,
        P,
        N,
        G,
        XBC_STRIDE,
        DT_STRIDE,
        SPLIT,
        UPCAST,
        False,
        False,
        False,
        BLOCK_L,
        BLOCK_P,
        SLICES,
        BLOCK_N,
    )


@triton.jit(do_not_specialize=["L", "R"])
def mix(
    xbc_ptr,
    dt_ptr,
    conv_state_ptr,
    ssm_state_ptr,
    rows_ptr,
    conv_weight_ptr,
    conv_bias_ptr,
    dt_bias_ptr,
    a_log_ptr,
    d_ptr,
    commit_len_ptr,
    L,
    R,
    y_ptr,
    new_conv_state_ptr,
    new_ssm_state_ptr,
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
    OVER: tl.constexpr,
    SHARE: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """See `ttc.plugins.mamba_walk.walk`.

    The states are those after commit_len[b] tokens, held to 0 … L; later ones do not count. A program also
    moves SHARE of the convolution's channels.
    """
    row = tl.program_id(2).to(tl.int64)
    place = place_of(rows_ptr + row, R)
    count = tl.minimum(tl.maximum(tl.load(commit_len_ptr + row), 0), L)
    walk(
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
        place if OVER else row,
        count,
        F,
        W,
        H,
        P,
        N,
        G,
        XBC_STRIDE,
        DT_STRIDE,
        SPLIT,
        UPCAST,
        False,
        True,
        OVER,
        BLOCK_L,
        BLOCK_P,
        SLICES,
        BLOCK_N,
    )
    _move_columns(
        xbc_ptr,
        conv_state_ptr,
        place,
        new_conv_state_ptr,
        row,
        count,
        L,
        F,
        W,
        XBC_STRIDE,
        SHARE,
        BLOCK_F,
        BLOCK_W,
    )


@triton.jit(do_not_specialize=["L", "R"])
def mix_long(
    xbc_ptr,
    activated_ptr,
    dt_ptr,
    conv_state_ptr,
    ssm_state_ptr,
    rows_ptr,
    dt_bias_ptr,
    a_log_ptr,
    d_ptr,
    commit_len_ptr,
    L,
    R,
    y_ptr,
    new_conv_state_ptr,
    new_ssm_state_ptr,
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
    OVER: tl.constexpr,
    SHARE: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """`mix` over a convolution that was made before. activated: (B, L, F)."""
    row = tl.program_id(2).to(tl.int64)
    place = place_of(rows_ptr + row, R)
    count = tl.minimum(tl.maximum(tl.load(commit_len_ptr + row), 0), L)
    walk(
        activated_ptr,
        dt_ptr,
        conv_state_ptr,  # not read
        ssm_state_ptr,
        place,
        dt_bias_ptr,  # not read
        dt_bias_ptr,  # not read
        dt_bias_ptr,
        a_log_ptr,
        d_ptr,
        L,
        y_ptr,
        new_ssm_state_ptr,
        place if OVER else row,
        count,
        F,
        W,
        H,
        P,
        N,
        G,
        F,
        DT_STRIDE,
        SPLIT,
        UPCAST,
        True,
        True,
        OVER,
        BLOCK_L,
        BLOCK_P,
        SLICES,
        BLOCK_N,
    )
    _move_columns(
        xbc_ptr,
        conv_state_ptr,
        place,
        new_conv_state_ptr,
        row,
        count,
        L,
        F,
        W,
        XBC_STRIDE,
        SHARE,
        BLOCK_F,
        BLOCK_W,
    )


@triton.jit
def _move_columns(
    xbc_ptr,
    conv_state_ptr,
    place,
    new_conv_state_ptr,
    row,
    count,
    L,
    F: tl.constexpr,
    W: tl.constexpr,
    XBC_STRIDE: tl.constexpr,
    SHARE: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """The convolution's state after `count` tokens, of SHARE channels."""
    program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    lanes = tl.arange(0, BLOCK_F)
    channels = (program * SHARE + lanes)[:, None]
    widths = tl.arange(0, BLOCK_W)[None, :]
    inside = (lanes < SHARE)[:, None] & (channels < F) & (widths < W - 1)
    column = count + widths  # of the old columns followed by the block's
    is_old = column < W - 1
    old_conv = (place * F + channels) * (W - 1)
    old = tl.load(conv_state_ptr + old_conv + column, mask=inside & is_old, other=0.0)
    at_new = (row * L + column - (W - 1)) * XBC_STRIDE + channels
    new = tl.load(xbc_ptr + at_new, mask=inside & (column >= W - 1), other=0.0)
    new_conv = (row * F + channels) * (W - 1)
    tl.store(new_conv_state_ptr + new_conv + widths, tl.where(is_old, old, new), mask=inside)


# At the real size 128 programs a row, on 132 processors; a program takes all registers of one.
_WALK = Tile("16x32", {"BLOCK_L": 16, "BLOCK_P": 32}, num_warps=8)
_LONG_WALK = Tile("32x32", {"BLOCK_L": 32, "BLOCK_P": 32}, num_warps=8)
# For Triton 3.6, which gives each of eight warps what four would have, and spills at 32 tokens.
_FEW_WARPS = Tile("16x32-4", {"BLOCK_L": 16, "BLOCK_P": 32}, num_warps=4)


def long_walk(version: str) -> Tile:
    """Return the long mixer's tile for this version of Triton."""
    major, minor = map(int, version.split(".")[:2])
    return _FEW_WARPS if (major, minor) < (3, 7) else _LONG_WALK


def _spec(op: OpSpec, kernel: Any, tile: Tile = _WALK, *, advances: bool = True) -> KernelSpec:
    def constants(problem: Problem, tile: Tile) -> Mapping[str, Any]:
        dims, G = problem.dims, problem.attributes["G"]
        F = dims["H"] * dims["P"] + 2 * G * dims["N"]
        W = problem.attributes["W"]
        share = cdiv(F, dims["H"] * cdiv(dims["P"], tile.blocks["BLOCK_P"]))
        width = power_of_two(dims["N"], at_least=16)
        slices = max(1, width // 32)
        moves = {
            "OVER": "new_ssm_state" in problem.over,
            "SHARE": share,
            "BLOCK_F": power_of_two(share),
            "BLOCK_W": power_of_two(W - 1),
        }
        return {
            "F": F,
            "W": W,
            **{name: dims[name] for name in ("H", "P", "N")},
            "G": G,
            "XBC_STRIDE": problem.token_strides.get("xbc", F),
            "DT_STRIDE": problem.token_strides.get("dt", dims["H"]),
            "SPLIT": problem.dtype == "bfloat16" and not problem.interpreted,
            "UPCAST": problem.interpreted and problem.dtype == "bfloat16",
            "SLICES": slices,
            "BLOCK_N": width // slices,
            **tile.blocks,
            # In float32 products are no matrix units', and 32 tokens at a time would not fit into registers.
            "BLOCK_L": 16 if problem.dtype == "float32" else tile.blocks["BLOCK_L"],
            **(moves if advances else {}),
        }

    return KernelSpec(
        op=op,
        kernel=kernel,
        changing=("B", "L", "R"),
        integers=("L", "R"),
        tiles=(tile,),
        select_tile=lambda dims: 0,
        constants=constants,
        grid=lambda dims, constants, minimum: (
            constants["H"],
            cdiv(constants["P"], constants["BLOCK_P"]),
            dims["B"],
        ),
        strided=("xbc", "dt"),
        over={"new_ssm_state": "ssm_state"} if advances else {},
    )


mamba_reading = _spec(MAMBA_READING, read, advances=False)
mamba_mixer = _spec(MAMBA_MIXER, mix)
mamba_long_mixer = _spec(MAMBA_LONG_MIXER, mix_long, long_walk(triton.__version__))
