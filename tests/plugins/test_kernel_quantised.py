"""The grouped products of weights in eight and four bits against their naive functions."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tests.support import tolerances
from tests.support.kernels import check_against_naive, check_outputs
from tests.support.stored_experts import EIGHT_BITS, FOUR_BITS, GROUP, store
from ttc.errors import InputError
from ttc.plugins.kernels import KERNELS
from ttc.plugins.launch import Problem
from ttc.plugins.moe_experts_blocked import MOE_DOWN_BLOCKED, MOE_EXPERTS_BLOCKED, MOE_UP_BLOCKED
from ttc.plugins.moe_experts_scaled import MOE_DOWN_SCALED, MOE_EXPERTS_SCALED, MOE_UP_SCALED
from ttc.plugins.moe_routing.naive import moe_routing
from ttc.plugins.naive import run_naive
from ttc.plugins.quantised_decode import PACKED_E2M1, decode_e4m3, decode_nibbles
from ttc.plugins.triton import run_triton

UP = dict.fromkeys(EIGHT_BITS, MOE_UP_SCALED) | dict.fromkeys(FOUR_BITS, MOE_UP_BLOCKED)
DOWN = dict.fromkeys(EIGHT_BITS, MOE_DOWN_SCALED) | dict.fromkeys(FOUR_BITS, MOE_DOWN_BLOCKED)
WHOLE = dict.fromkeys(EIGHT_BITS, MOE_EXPERTS_SCALED) | dict.fromkeys(FOUR_BITS, MOE_EXPERTS_BLOCKED)
FORMATS = [*EIGHT_BITS, *FOUR_BITS]


def routing(T, E, K, seed=0):
    logits = torch.randn(T, E, generator=torch.Generator().manual_seed(seed))
    return moe_routing(
        logits,
        torch.zeros(E),
        K=K,
        n_group=1,
        topk_group=1,
        norm_topk_prob=1,
        routed_scaling_factor=2.5,
    )


def example(T, D, width, E, K, stored, dtype):
    """x, both stacks and routing; products of order one, a row of zeros in either stack."""
    random = torch.Generator().manual_seed(T)
    kind = getattr(torch, dtype)
    x = torch.randn(T, D, generator=random).to(kind)
    up = torch.randn(E, width, D, generator=random) / D**0.5
    down = torch.randn(E, D, width, generator=random) / width**0.5
    up[0, 1], down[-1, 2] = 0.0, 0.0
    return x, store(up, stored, kind), store(down, stored, kind), routing(T, E, K)


def tolerance(stored, want, dtype):
    """Results in the compute dtype are rounded to it, and int4 weights before they are multiplied."""
    rounded = "float32" if want.dtype == torch.float32 and stored != "int4" else dtype
    return tolerances.DECODING_KERNEL[rounded] * float(want.float().abs().max())


# Of each tile: tokens, hidden size, expert width, experts, experts per token. Widths that no tile divides;
# groups of 32 at least; experts with more rows than a tile.
SHAPES = [(5, 96, 160, 4, 2), (1, 32, 64, 4, 1), (45, 64, 32, 3, 2), (9, 32, 96, 2, 2)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("stored", FORMATS)
def test_products(device, stored, dtype):
    up_op, down_op = UP[stored], DOWN[stored]
    assert len(KERNELS[up_op.name].tiles) == len(KERNELS[down_op.name].tiles) == len(SHAPES)
    for tile, shape in enumerate(SHAPES):
        x, up, down, (expert_ids, _, pairs, _, offsets) = example(*shape, stored, dtype)
        inputs = [x, *up.tensors, expert_ids, pairs, offsets]
        (activated,) = run_naive(up_op, *inputs)
        assert torch.isfinite(activated).all()
        check_against_naive(up_op, inputs, device, tolerance(stored, activated, dtype), tile=tile)
        inputs = [activated, *down.tensors, expert_ids, pairs, offsets]
        (rows,) = run_naive(down_op, *inputs)
        check_against_naive(down_op, inputs, device, tolerance(stored, rows, dtype), tile=tile)


@pytest.mark.parametrize("stored", FORMATS)
def test_naive_is_the_product_of_what_the_weights_mean(stored):
    """And so the chain from stored bytes to a result is right, not only the same twice."""
    x, up, down, (expert_ids, weights, pairs, rows, offsets) = example(5, 96, 160, 4, 2, stored, "float32")
    inputs = [x, *up.tensors, *down.tensors, expert_ids, weights, pairs, rows, offsets]
    (got,) = run_naive(WHOLE[stored], *inputs)
    want = torch.zeros(5, 96, dtype=torch.float64)
    for t, (ids, row) in enumerate(zip(expert_ids.tolist(), weights.tolist(), strict=True)):
        for e, weight in zip(ids, row, strict=True):
            hidden = torch.relu(up.means[e].double() @ x[t].double()).square()
            want[t] += weight * (down.means[e].double() @ hidden)
    assert float((got - want).abs().max()) < 1e-6 * float(want.abs().max())


@pytest.mark.parametrize("stored", FORMATS)
def test_composite_op(device, stored):
    x, up, down, (expert_ids, weights, pairs, rows, offsets) = example(6, 64, 96, 8, 3, stored, "float32")
    inputs = [x, *up.tensors, *down.tensors, expert_ids, weights, pairs, rows, offsets]
    (want,) = run_naive(WHOLE[stored], *inputs)
    check_against_naive(
        WHOLE[stored], inputs, device, 3 * tolerances.DECODING_KERNEL["float32"] * float(want.abs().max())
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stored", FORMATS)
def test_every_byte(device, stored, dtype):
    """All codes, each times a scale of its own size, against x of ones in single places."""
    codes = torch.arange(256, dtype=torch.uint8)
    if stored == "float8_e4m3fn":
        codes[[0x7F, 0xFF]] = 0  # NaN, which is refused long before
    kind = getattr(torch, dtype)
    experts, out = 2, 3
    if stored in EIGHT_BITS:
        weights = codes.view(getattr(torch, stored)).expand(experts, out, 256).contiguous()
        tensors = (weights, torch.tensor([[1.0, 2.0**-9, 0.75]] * experts))
    else:
        width = 512
        random = torch.Generator().manual_seed(0)
        scale = torch.randint(1, 0x7F, (experts, out, width // GROUP[stored]), generator=random).to(
            torch.uint8
        )
        scale = scale.view(torch.float8_e4m3fn)
        scale = scale if stored == "float4_e2m1fn" else scale.to(kind)
        tensors = (codes.expand(experts, out, 256).contiguous(), scale, torch.tensor([1.0, 0.125]))
    width = 256 if stored in EIGHT_BITS else 512
    activated = torch.eye(width, dtype=kind)  # one row a code
    expert_ids = (torch.arange(width, dtype=torch.int32) % experts)[:, None]
    grouped = torch.argsort(expert_ids.flatten(), stable=True).int()
    offsets = torch.tensor([0, width // 2, width], dtype=torch.int32)
    inputs = [activated[grouped.long()], *tensors, expert_ids, grouped, offsets]
    check_against_naive(DOWN[stored], inputs, device, 0.0)


@pytest.mark.parametrize("native", [False, True])
def test_e4m3_by_bits_and_by_the_gpu(device, native):
    """Every finite code, exactly; the two NaN come out as ±480 by bits."""
    codes = torch.arange(256, dtype=torch.uint8, device=device)
    got = torch.empty(256, device=device)
    with np.errstate(all="ignore"):
        _decoded[(1,)](codes, got, NATIVE=native)
    want = codes.view(torch.float8_e4m3fn).float()
    finite = torch.isfinite(want)
    assert int(finite.sum()) == 254
    assert torch.equal(got[finite], want[finite])
    assert native or got[~finite].abs().tolist() == [480.0, 480.0]


@triton.jit
def _decoded(codes_ptr, out_ptr, NATIVE: tl.constexpr):
    at = tl.arange(0, 256)
    tl.store(out_ptr + at, decode_e4m3(tl.load(codes_ptr + at), NATIVE, tl.float32))


def test_nibbles_are_those_of_the_format(device):
    codes = torch.arange(16, dtype=torch.uint8, device=device)
    got = torch.empty(2, 16, device=device)
    with np.errstate(all="ignore"):
        _nibbles[(1,)](codes, got)
    assert got[0].tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
    assert got[1].tolist() == [*range(8), *range(-8, 0)]


@triton.jit
def _nibbles(codes_ptr, out_ptr):
    at = tl.arange(0, 16)
    codes = tl.load(codes_ptr + at)
    tl.store(out_ptr + at, decode_nibbles(codes, "float4_e2m1fn", tl.float32))
    tl.store(out_ptr + 16 + at, decode_nibbles(codes, "int4", tl.float32))


def test_packed_decode_of_every_byte():
    """Inline PTX does not run in the interpreter: its five instructions are computed here."""
    a = np.arange(2**16, dtype=np.uint64)
    word = a | (a[::-1] << np.uint64(16))  # every byte at each of the four places
    registers = run_ptx(PACKED_E2M1.value, {"$4": word.astype(np.uint32)})
    bits = np.stack([registers[f"${i}"] for i in range(4)]).view(np.uint16).reshape(4, -1, 2)
    numbers = (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64) * 2.0**126
    got = numbers.transpose(1, 0, 2).reshape(-1, 2, 4)  # word, lower or upper, byte
    codes = word.astype(np.uint32).view(np.uint8).reshape(-1, 1, 4)
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    assert np.array_equal(got, table[np.concatenate([codes & 15, codes >> 4], 1)])


def run_ptx(text, registers):
    """What these instructions leave in the registers."""

    def value(name):
        return registers[name] if name in registers else np.uint32(int(name, 0))

    for line in text.split(";"):
        words = line.replace("{", "").replace("}", "").replace(",", " ").split()
        if not words or words[0] == ".reg":
            continue
        operation, target, *names = words
        a, b, *rest = map(value, names)
        if operation == "prmt.b32":
            registers[target] = permuted(a, b, int(rest[0]))
        else:
            registers[target] = {
                "shl.b32": np.left_shift,
                "and.b32": np.bitwise_and,
                "or.b32": np.bitwise_or,
            }[operation](a, b)
    return registers


def permuted(a, b, selector):
    """PTX's prmt in its default mode: byte k of the result is the byte of a and b that nibble k names."""
    pair = a.astype(np.uint64) | (np.uint64(b) << np.uint64(32))
    found = np.zeros_like(a)
    for k in range(4):
        which = (selector >> 4 * k) & 15
        assert which < 8, "the sign is replicated, which is not computed here"
        found |= ((pair >> np.uint64(8 * which)) & np.uint64(255)).astype(np.uint32) << np.uint32(8 * k)
    return found


@pytest.mark.parametrize("stored", FORMATS)
def test_nan_stays_with_its_token(device, stored):
    x, up, down, (expert_ids, weights, pairs, rows, offsets) = example(5, 32, 64, 4, 2, stored, "float32")
    x[2, 7] = float("nan")
    inputs = [x, *up.tensors, *down.tensors, expert_ids, weights, pairs, rows, offsets]
    (want,) = run_naive(WHOLE[stored], *inputs)
    assert want.isnan().all(1).tolist() == [False, False, True, False, False]
    check_against_naive(WHOLE[stored], inputs, device, 1e-4)


def test_what_is_refused(device):
    x, up, _, (expert_ids, _, pairs, _, offsets) = example(1, 32, 64, 4, 1, "float4_e2m1fn", "float32")
    packed, scale, scale_2 = up.tensors
    routed = (expert_ids, pairs, offsets)
    with pytest.raises(InputError, match=r"up_scale is torch\.float16, expected torch\.float32"):
        run_triton(MOE_UP_BLOCKED, x, packed, scale.half(), scale_2, *routed)
    longer = packed.repeat(1, 1, 2)[..., :24].contiguous()
    with pytest.raises(InputError, match=r"up has shape \(4, 64, 48\), expected \(E, I, D\) with D = 32"):
        run_triton(MOE_UP_BLOCKED, x, longer, scale, scale_2, *routed)
    with pytest.raises(InputError, match="up is uint8, expected one of int8, float8_e4m3fn"):
        run_triton(MOE_UP_SCALED, x, packed, torch.ones(4, 64), *routed)
    dims = {"D": 32, "DB": 3, "I": 64, "E": 4, "K": 1, "T": 1}
    problem = Problem(dims, {}, "bfloat16", stored="float4_e2m1fn")
    with pytest.raises(InputError, match="3 scales along 32 weights; a scale is for one of 16, 32 weights"):
        KERNELS["MoeUpBlocked"].bind(problem)


@pytest.mark.gpu
@pytest.mark.parametrize("T", [1, 16])
@pytest.mark.parametrize("stored", FORMATS)
def test_products_of_the_real_size(device, stored, T):
    """Of 16 experts, since a stack of all takes a minute to make; the twin computes once, on the GPU."""
    random = torch.Generator().manual_seed(T)
    x = (0.5 * torch.randn(T, 2688, generator=random)).to(torch.bfloat16)
    up = store(torch.randn(16, 1856, 2688, generator=random) / 2688**0.5, stored, torch.bfloat16)
    expert_ids, _, pairs, _, offsets = routing(T, 16, 6)
    inputs = [tensor.to(device) for tensor in (x, *up.tensors, expert_ids, pairs, offsets)]
    want = run_naive(UP[stored], *inputs)
    for tile in range(len(KERNELS[UP[stored].name].tiles)):
        check_outputs(UP[stored], inputs, want, device, tolerances.KERNEL["bfloat16"], tile=tile)
