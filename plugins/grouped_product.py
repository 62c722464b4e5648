"""The grouped matrix product of all MoE experts, whatever their weights are stored in.

A grouped GEMM over tokens sorted by expert, as in MegaBlocks (Gale et al. 2022) and vLLM's fused MoE. Its
rows are the (token, expert) pairs in the order of the experts; a row tile never holds rows of two experts, so
a program multiplies by one expert's weights. Row tiles are numbered over the experts that were hit: each
program finds its own from `expert_offsets`, so the grid depends on shapes only and the host need not know who
was hit. Surplus programs leave at once.

Up to BLOCK_M tokens an expert has one row tile (a token chooses an expert once at most), so every hit
expert's weights are read exactly once, the others' never. Where a few experts have many rows and many have a
few, which only the device knows, a row tile is multiplied as one of 16, 32 or 64 rows, by what it has
(`SIZES`): 64 rows at once read an expert's weights once where tiles of 16 would read them four times.

Weights may lie in square tiles (`ttc.plugins.weight_tiles`), each of them in one stretch of memory: a program
then reads its columns' weights as long stretches, where rows give it short ones far apart. What is added to
what, and in which order, is the same.

A single token needs no search for plain weights: its K experts have one row each, in the order of
`grouped_pairs`.

`product` is inlined into a kernel for each family of ops, since a kernel's arguments are those of its op:
`ttc.plugins.moe_experts` (plain weights), `moe_experts_scaled` (eight bits), `moe_experts_blocked` (four
bits).
"""

import triton
import triton.language as tl

from ttc.plugins.quantised_decode import decode_bytes, decode_e4m3, decode_nibbles, decode_packed_e2m1

__all__ = ["product"]


@triton.jit
def product(
    x_ptr,
    weight_ptr,
    group_scale_ptr,
    scale_ptr,
    expert_ids_ptr,
    grouped_pairs_ptr,
    expert_offsets_ptr,
    R,
    out_ptr,
    E: tl.constexpr,
    K: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    PAIRS_PER_ROW: tl.constexpr,
    SQUARED_RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    FORMAT: tl.constexpr,
    GROUP: tl.constexpr,
    NATIVE: tl.constexpr,
    PACKED: tl.constexpr,
    SIDE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    SIZES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """out[r] = f(s · (weight[e(r)] · x[row of r])), fp32 accumulation.

    Program (n, tile): columns n·BLOCK_N …, row tile number `tile`.

    x_ptr: (rows, IN); the row of r is grouped_pairs[r] // PAIRS_PER_ROW, or r itself where that is 0.
    weight_ptr: (E, OUT, IN) in FORMAT: "plain", "int8", "float8_e4m3fn"; or "float4_e2m1fn", "int4" with two
        weights in a byte.
    group_scale_ptr: (E, OUT, IN / GROUP), read for weights of four bits only.
    scale_ptr: (E, OUT) of weights of eight bits, (E,) of four, not read for plain ones.
    R: number of pairs, T·K.
    out_ptr: (R, OUT).
    SQUARED_RELU: f is relu², else nothing.
    NATIVE: the GPU converts float8_e4m3fn itself.
    PACKED: float4_e2m1fn is decoded four bytes at a time.
    SIDE: of the tiles that the weights lie in; 0: they lie in rows.
    SIZES: a row tile is multiplied as one of BLOCK_M, BLOCK_M / 2 … rows, so many sizes, by how many it has.

    Pairs and offsets that no routing gives lead nowhere outside the tensors: a builder that measures the
    kernel may fill its inputs with anything.
    """
    tile = tl.program_id(1)
    if FORMAT == "plain":
        if R == K:  # one token: K experts of one row each, in order, which takes no look at the others
            pair = tl.load(grouped_pairs_ptr + tile)
            expert = tl.maximum(tl.load(expert_ids_ptr + tl.minimum(tl.maximum(pair, 0), K - 1)), 0)
            part = 0
        else:
            expert, part = _found(expert_offsets_ptr, tile, E, BLOCK_E, BLOCK_M)
    else:  # behind such a branch the loop that decodes, which is the limit here, gets 2 % more instructions
        expert, part = _found(expert_offsets_ptr, tile, E, BLOCK_E, BLOCK_M)
    if expert < E:
        start_row = tl.load(expert_offsets_ptr + expert) + part * BLOCK_M
        end_row = tl.minimum(tl.load(expert_offsets_ptr + expert + 1), R)
        count = end_row - start_row
        for halving in tl.static_range(SIZES):
            fits = (count <= (BLOCK_M >> halving)) | (halving == 0)
            if fits & ((count > (BLOCK_M >> (halving + 1))) | (halving == SIZES - 1)):
                _row_tile(
                    x_ptr,
                    weight_ptr,
                    group_scale_ptr,
                    scale_ptr,
                    grouped_pairs_ptr,
                    expert,
                    start_row,
                    end_row,
                    R,
                    out_ptr,
                    IN,
                    OUT,
                    PAIRS_PER_ROW,
                    SQUARED_RELU,
                    PRECISION,
                    UPCAST,
                    FORMAT,
                    GROUP,
                    NATIVE,
                    PACKED,
                    SIDE,
                    BLOCK_M >> halving,
                    BLOCK_N,
                    BLOCK_K,
                )


@triton.jit
def _found(expert_offsets_ptr, tile, E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr):
    """A row tile's expert, E behind the last tile, and which of the expert's it is."""
    experts = tl.arange(0, BLOCK_E)
    first = tl.load(expert_offsets_ptr + experts, mask=experts < E, other=0)
    last = tl.load(expert_offsets_ptr + experts + 1, mask=experts < E, other=0)
    tiles = (last - first + BLOCK_M - 1) // BLOCK_M
    # One sum for two numbers, since every program waits for it: how many experts lie wholly before this row
    # tile (upper half), and how many row tiles they have (lower half).
    passed = tl.where(tl.cumsum(tiles, 0) <= tile, tiles.to(tl.int64) + (1 << 32), 0)
    before = tl.sum(passed, 0)
    return (before >> 32).to(tl.int32), tile - before.to(tl.int32)


@triton.jit
def _row_tile(
    x_ptr,
    weight_ptr,
    group_scale_ptr,
    scale_ptr,
    grouped_pairs_ptr,
    expert,
    start_row,
    end_row,
    R,
    out_ptr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    PAIRS_PER_ROW: tl.constexpr,
    SQUARED_RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    FORMAT: tl.constexpr,
    GROUP: tl.constexpr,
    NATIVE: tl.constexpr,
    PACKED: tl.constexpr,
    SIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Rows start_row … end_row − 1, BLOCK_M of them at most, by the weights of their expert."""
    rows = start_row + tl.arange(0, BLOCK_M)
    live = (rows >= 0) & (rows < end_row)
    if PAIRS_PER_ROW == 0:
        sources = rows
    else:
        pairs = tl.load(grouped_pairs_ptr + rows, mask=live, other=0)
        sources = tl.minimum(tl.maximum(pairs, 0), R - 1) // PAIRS_PER_ROW

    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    x_rows = x_ptr + sources.to(tl.int64)[:, None] * IN
    channels = expert.to(tl.int64) * OUT + columns.to(tl.int64)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if GROUP == 0:
        total = _sum_of_whole(
            total,
            x_rows,
            live,
            weight_ptr + _first_of(channels, IN, SIDE, SIDE)[None, :],
            columns < OUT,
            IN,
            FORMAT,
            NATIVE,
            PRECISION,
            UPCAST,
            SIDE,
            BLOCK_K,
        )
    else:
        total = _sum_of_halves(
            total,
            x_rows,
            live,
            weight_ptr + _first_of(channels, IN // 2, SIDE, SIDE // 2)[None, :],
            group_scale_ptr + channels[None, :] * (IN // GROUP),
            columns < OUT,
            IN,
            FORMAT,
            GROUP,
            NATIVE,
            PACKED,
            PRECISION,
            UPCAST,
            SIDE,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
    if GROUP != 0:
        total = total * (tl.load(scale_ptr + expert) * (128.0 if PACKED else 1.0))
    elif FORMAT != "plain":
        total = total * tl.load(scale_ptr + channels, mask=columns < OUT, other=0.0)[None, :]
    if SQUARED_RELU:
        total = tl.where(total < 0.0, 0.0, total)
        total = total * total
    out = out_ptr + rows.to(tl.int64)[:, None] * OUT + columns[None, :]
    tl.store(out, total.to(out_ptr.dtype.element_ty), mask=live[:, None] & (columns < OUT)[None, :])


@triton.jit
def _first_of(channels, WIDTH: tl.constexpr, SIDE: tl.constexpr, TILE_WIDTH: tl.constexpr):
    """Where each output channel's first weight lies, of rows of WIDTH elements or of tiles of SIDE rows."""
    if SIDE == 0:
        first = channels * WIDTH
    else:
        first = channels // SIDE * (SIDE * WIDTH) + channels % SIDE * TILE_WIDTH
    return first


@triton.jit
def _from_first(start, BLOCK: tl.constexpr, SIDE: tl.constexpr, TILE_WIDTH: tl.constexpr):
    """How far behind it elements start … start + BLOCK − 1 of its row lie."""
    inner = tl.arange(0, BLOCK)
    if SIDE == 0:
        offset = start + inner
    elif BLOCK < TILE_WIDTH:
        within = tl.multiple_of(start % TILE_WIDTH, BLOCK)  # which Triton 3.6 does not find out
        offset = start // TILE_WIDTH * (SIDE * TILE_WIDTH) + within + inner
    else:  # start is the first of a tile
        offset = start * SIDE + inner // TILE_WIDTH * (SIDE * TILE_WIDTH) + inner % TILE_WIDTH
    return offset


@triton.jit
def _sum_of_whole(
    total,
    x_rows,
    live,
    weight_columns,
    exists,
    IN: tl.constexpr,
    FORMAT: tl.constexpr,
    NATIVE: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    SIDE: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """total + x · weight, of weights that are a byte or more each."""
    for start in range(0, IN, BLOCK_K):
        inner = start + tl.arange(0, BLOCK_K)
        x = tl.load(x_rows + inner[None, :], mask=live[:, None] & (inner < IN)[None, :], other=0.0)
        at = _from_first(start, BLOCK_K, SIDE, SIDE)
        weight = tl.load(weight_columns + at[:, None], mask=exists[None, :] & (inner[:, None] < IN), other=0)
        if UPCAST:
            x = x.to(tl.float32)
        if FORMAT == "plain":
            weight = weight.to(x.dtype)
        else:
            weight = decode_bytes(weight, FORMAT, NATIVE, x.dtype)
        total = tl.dot(x, weight, total, input_precision=PRECISION)
    return total


@triton.jit
def _sum_of_halves(
    total,
    x_rows,
    live,
    weight_columns,
    scale_columns,
    exists,
    IN: tl.constexpr,
    FORMAT: tl.constexpr,
    GROUP: tl.constexpr,
    NATIVE: tl.constexpr,
    PACKED: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    SIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """total + x · (code · group scale), of weights with two in a byte; where PACKED, 1/128 of that is added.

    x is loaded as it lies and then split into even and odd columns, for the lower and the upper halves of the
    bytes.
    """
    HALF: tl.constexpr = BLOCK_K // 2
    GROUPS: tl.constexpr = BLOCK_K // GROUP
    for start in range(0, IN, BLOCK_K):
        inner = start + tl.arange(0, BLOCK_K)
        x = tl.load(x_rows + inner[None, :], mask=live[:, None] & (inner < IN)[None, :], other=0.0)
        if UPCAST:
            x = x.to(tl.float32)
        even, odd = tl.split(tl.reshape(x, (BLOCK_M, HALF, 2)))
        byte = start // 2 + tl.arange(0, HALF)
        at = _from_first(start // 2, HALF, SIDE, SIDE // 2)
        pairs = tl.load(
            weight_columns + at[:, None], mask=exists[None, :] & (byte[:, None] < IN // 2), other=0
        )
        group = start // GROUP + tl.arange(0, GROUPS)
        scale = tl.load(
            scale_columns + group[:, None], mask=exists[None, :] & (group[:, None] < IN // GROUP), other=0
        )
        if FORMAT == "float4_e2m1fn":
            scale = decode_e4m3(scale, NATIVE, x.dtype)
        if PACKED:
            # Of the 2¹²⁶ that the codes lack, what a scale can take; the last 2⁷ go into the sum.
            low, high = decode_packed_e2m1(pairs)
            scale = scale * tl.full((), 6.646139978924579e35, tl.bfloat16)  # 2¹¹⁹
        else:
            low = decode_nibbles(pairs & 15, FORMAT, x.dtype)
            high = decode_nibbles(pairs >> 4, FORMAT, x.dtype)
            scale = scale.to(low.dtype)
        scales = tl.reshape(
            tl.broadcast_to(scale[:, None, :], (GROUPS, GROUP // 2, BLOCK_N)), (HALF, BLOCK_N)
        )
        total = tl.dot(even, (low * scales).to(x.dtype), total, input_precision=PRECISION)
        total = tl.dot(odd, (high * scales).to(x.dtype), total, input_precision=PRECISION)
    return total
