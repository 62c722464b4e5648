"""Triton functions that turn stored weights of eight and four bits into numbers that a product takes.

Small floats are decoded by moving their bits to where a wider float has them, and multiplying by the power of
two that the exponents' biases differ by. That is exact, subnormals included, and takes no comparisons. The
bits of NaN (0x7F and 0xFF in float8_e4m3fn), which no checkpoint may hold, come out as ±480 this way.

In Triton's interpreter a subnormal bfloat16 becomes 0 when it is widened, so there everything is decoded as
float32.
"""

import triton
import triton.language as tl

__all__ = ["PACKED_E2M1", "decode_bytes", "decode_e4m3", "decode_nibbles", "decode_packed_e2m1"]

# Four bytes in $4 → their lower halves in $0 and $1, their upper ones in $2 and $3, two to a register.
PACKED_E2M1 = tl.constexpr("""
{
.reg .b32 first, second, sign, rest;
prmt.b32 first, $4, 0, 0x4140;
prmt.b32 second, $4, 0, 0x4342;
shl.b32 sign, first, 12;
shl.b32 rest, first, 6;
and.b32 sign, sign, 0x80008000;
and.b32 rest, rest, 0x01C001C0;
or.b32 $0, sign, rest;
shl.b32 sign, second, 12;
shl.b32 rest, second, 6;
and.b32 sign, sign, 0x80008000;
and.b32 rest, rest, 0x01C001C0;
or.b32 $1, sign, rest;
shl.b32 sign, first, 8;
shl.b32 rest, first, 2;
and.b32 sign, sign, 0x80008000;
and.b32 rest, rest, 0x01C001C0;
or.b32 $2, sign, rest;
shl.b32 sign, second, 8;
shl.b32 rest, second, 2;
and.b32 sign, sign, 0x80008000;
and.b32 rest, rest, 0x01C001C0;
or.b32 $3, sign, rest;
}
""")


@triton.jit
def decode_bytes(weight, FORMAT: tl.constexpr, NATIVE: tl.constexpr, dtype: tl.constexpr):
    """Return a tile of eight-bit weights in `dtype`, exactly.

    FORMAT: "int8" or "float8_e4m3fn"; the latter comes as uint8.
    NATIVE: the GPU converts float8_e4m3fn itself.
    """
    if FORMAT == "int8":
        return weight.to(dtype)
    else:
        return decode_e4m3(weight, NATIVE, dtype)


@triton.jit
def decode_e4m3(codes, NATIVE: tl.constexpr, dtype: tl.constexpr):
    """Return float8_e4m3fn, given as uint8, in `dtype`, exactly."""
    if NATIVE:
        return codes.to(tl.float8e4nv, bitcast=True).to(dtype)
    elif dtype == tl.bfloat16:
        bits = ((codes & 0x80).to(tl.uint16) << 8) | ((codes & 0x7F).to(tl.uint16) << 4)
        return bits.to(tl.bfloat16, bitcast=True) * tl.full((), 1.329227995784916e36, tl.bfloat16)  # 2¹²⁰
    else:
        bits = ((codes & 0x80).to(tl.uint32) << 24) | ((codes & 0x7F).to(tl.uint32) << 20)
        return (bits.to(tl.float32, bitcast=True) * 1.329227995784916e36).to(dtype)


@triton.jit
def decode_nibbles(codes, FORMAT: tl.constexpr, dtype: tl.constexpr):
    """Return four-bit codes, one in each uint8, as bfloat16 where that is `dtype`, else as float32.

    FORMAT: "float4_e2m1fn" or "int4".
    """
    if FORMAT == "float4_e2m1fn":
        bits = ((codes & 8).to(tl.uint32) << 28) | ((codes & 7).to(tl.uint32) << 22)
        numbers = bits.to(tl.float32, bitcast=True) * 8.507059173023462e37  # 2¹²⁶
        return numbers.to(tl.bfloat16) if dtype == tl.bfloat16 else numbers
    elif dtype == tl.bfloat16:
        # The bits 0x4300 | u are the number 128 + u, and u is 8 more than what the code means.
        bits = (codes ^ 8).to(tl.uint16) | tl.full((), 0x4300, tl.uint16)
        return bits.to(tl.bfloat16, bitcast=True) - tl.full((), 136.0, tl.bfloat16)
    else:
        return (codes ^ 8).to(tl.float32) - 8.0


@triton.jit
def decode_packed_e2m1(pairs):
    """Return the lower and the upper float4_e2m1fn of each uint8 in bfloat16, times 2⁻¹²⁶.

    Four bytes at a time: two `prmt` spread them over the halves of two registers, and shifts put sign and
    magnitude where bfloat16 has them.
    """
    return tl.inline_asm_elementwise(
        PACKED_E2M1,
        "=r,=r,=r,=r,r",
        [pairs],
        dtype=(tl.bfloat16, tl.bfloat16),
        is_pure=True,
        pack=4,
    )
