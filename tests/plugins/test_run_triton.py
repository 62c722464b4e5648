"""What `run_triton` refuses, each time naming the argument."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support import tolerances
from tests.support.compare import assert_close
from ttc.errors import BackendError, InputError
from ttc.plugins import triton as triton_module
from ttc.plugins.diffusion_step import DIFFUSION_COMMIT, DIFFUSION_STEP
from ttc.plugins.kernels import KERNELS
from ttc.plugins.launch import Tile
from ttc.plugins.moe_experts import MOE_COMBINE, MOE_UP
from ttc.plugins.naive import run_naive
from ttc.plugins.page_write import PAGE_WRITE
from ttc.plugins.table import LAUNCHED_OPS, OPS
from ttc.plugins.triton import run_triton

ROOT = Path(__file__).parents[2]


def test_every_op_of_one_launch_has_a_kernel():
    assert KERNELS.keys() == {op.name for op in LAUNCHED_OPS}
    assert {name for op in OPS for name in op.parts} <= KERNELS.keys()


def test_kernels_take_inputs_then_integers_then_outputs():
    """In TensorRT's order, under names that say which is which."""
    for spec in KERNELS.values():
        names = spec.kernel.arg_names
        count = len(spec.op.inputs)
        assert all(name.endswith("_ptr") for name in names[:count]), spec.op.name
        integers = names[count : count + len(spec.integers)]
        assert not any(name.endswith("_ptr") for name in integers), spec.op.name
        outputs = names[count + len(integers) :][: len(spec.op.outputs)]
        assert all(name.endswith("_ptr") for name in outputs), spec.op.name


def combine_inputs(device="cpu"):
    return [torch.randn(4, 24), torch.randn(2, 2), torch.tensor([[0, 1], [2, 3]], dtype=torch.int32)]


def test_inputs_are_checked(device):
    rows, weights, grouped = (tensor.to(device) for tensor in combine_inputs())
    odd = torch.zeros(4 * 24 + 1, device=device)[1:].view(4, 24)
    for inputs, message in (
        ((rows, weights), "2 inputs, expected 3: rows, weights, grouped_rows"),
        ((rows.half(), weights, grouped), r"rows is torch\.float16, expected torch\.float32"),
        ((rows, weights, grouped.long()), r"grouped_rows is torch\.int64, expected torch\.int32"),
        ((rows.T.contiguous().T, weights, grouped), "rows has strides"),
        ((odd, weights, grouped), "rows starts 4 bytes past a multiple of 16"),
        ((rows[:3], weights, grouped), r"rows has shape \(3, 24\), expected \(T\*K, D\) with T\*K = 4"),
        ((rows, weights[:1], grouped), r"grouped_rows has shape \(2, 2\), expected \(T, K\) with T = 1"),
        ((rows[None], weights, grouped), "rows has 3 dimensions, expected"),
        ((rows.to("meta"), weights, grouped), "rows is on meta"),
        ((rows, weights.to("meta"), grouped), "weights is on meta, the first input on"),
    ):
        with pytest.raises(InputError, match=f"MoeCombine: {message}"):
            run_triton(MOE_COMBINE, *inputs)


def test_attributes_and_outputs_are_checked(device):
    rows, weights, grouped = (tensor.to(device) for tensor in combine_inputs())
    with pytest.raises(InputError, match=r"attributes \['G'\], expected none"):
        run_triton(MOE_COMBINE, rows, weights, grouped, G=1)
    with pytest.raises(InputError, match="out holds 2 tensors, expected 1: combined"):
        run_triton(MOE_COMBINE, rows, weights, grouped, out=[rows, rows])
    with pytest.raises(InputError, match=r"out for combined has shape \(4, 24\), expected \(2, 24\)"):
        run_triton(MOE_COMBINE, rows, weights, grouped, out=[torch.empty_like(rows)])
    with pytest.raises(InputError, match=r"combined is torch\.float16"):
        run_triton(MOE_COMBINE, rows, weights, grouped, out=[torch.empty(2, 24).half().to(device)])
    with pytest.raises(InputError, match="tile is 7, expected 0 to 1"):
        run_triton(MOE_COMBINE, rows, weights, grouped, tile=7)
    with pytest.raises(InputError, match="tile is for ops of one launch"):
        run_triton(DIFFUSION_STEP, tile=0)


def test_compute_dtypes_agree(device):
    x = torch.zeros(1, 8, dtype=torch.float16, device=device)
    up = torch.zeros(2, 8, 8, device=device)
    ids = torch.zeros(1, 1, dtype=torch.int32, device=device)
    pairs = torch.zeros(1, dtype=torch.int32, device=device)
    offsets = torch.tensor([0, 1, 1], dtype=torch.int32, device=device)
    with pytest.raises(InputError, match=r"up is torch\.float32, expected torch\.float16"):
        run_triton(MOE_UP, x, up, ids, pairs, offsets)
    with pytest.raises(InputError, match="x is float64, expected one of"):
        run_triton(MOE_UP, x.double(), up, ids, pairs, offsets)


def test_new_outputs_without_out(device):
    inputs = [tensor.to(device) for tensor in combine_inputs()]
    (got,) = run_triton(MOE_COMBINE, *inputs)
    (want,) = run_naive(MOE_COMBINE, *inputs)
    assert_close(got.cpu(), want.cpu(), tolerances.OP, "combined")


def test_nothing_to_do(device):
    """A batch of no rows launches no kernel."""
    ids = torch.zeros(0, 16, dtype=torch.int32, device=device)
    rows = [torch.zeros(0, device=device), torch.zeros(0, dtype=torch.int32, device=device)]
    next_ids, count = run_triton(DIFFUSION_COMMIT, ids, ids, ids.float(), *rows, mask_id=3)
    assert next_ids.shape == (0, 16)
    assert count.shape == (0,)


def test_a_kernel_that_does_not_compile(device, monkeypatch):
    spec = replace(KERNELS["MoeCombine"], tiles=(Tile("odd", {"BLOCK_D": 3}, num_warps=1),))
    monkeypatch.setitem(run_triton.__globals__["KERNELS"], "MoeCombine", spec)
    inputs = [tensor.to(device) for tensor in combine_inputs()]
    with pytest.raises(BackendError, match=r"MoeCombine: Triton .* could not compile or launch .* tile odd"):
        run_triton(MOE_COMBINE, *inputs)


def counting_checks(monkeypatch):
    """Calls of what checks an op's inputs."""
    calls, real = [], triton_module._check_inputs
    monkeypatch.setattr(triton_module, "_check_inputs", lambda *given: calls.append(given) or real(*given))
    return calls


def test_a_second_call_of_a_kind_is_not_checked_again(device, monkeypatch):
    triton_module._bound.clear()
    checks = counting_checks(monkeypatch)
    for _ in range(3):
        inputs = [tensor.to(device) for tensor in combine_inputs()]
        (got,) = run_triton(MOE_COMBINE, *inputs)
        (want,) = run_naive(MOE_COMBINE, *inputs)
        assert_close(got.cpu(), want.cpu(), tolerances.OP, "combined")
    assert len(checks) == 1
    into = torch.empty_like(got)
    for _ in range(2):
        assert run_triton(MOE_COMBINE, *inputs, out=[into])[0] is into
        assert_close(into.cpu(), want.cpu(), tolerances.OP, "combined")
    assert len(checks) == 2, "with a place for the output it is another kind"
    run_triton(MOE_COMBINE, *inputs, tile=1)
    rows, weights, grouped = inputs
    run_triton(MOE_COMBINE, torch.cat([rows, rows]), weights.repeat(2, 1), grouped.repeat(2, 1))
    assert len(checks) == 4, "and so with another tile, or another size"


def test_what_a_second_call_is_still_checked_for(device):
    """Where tensors start is no part of their kind."""
    rows, weights, grouped = (tensor.to(device) for tensor in combine_inputs())
    into = torch.empty(2, 24, device=device)
    run_triton(MOE_COMBINE, rows, weights, grouped)
    run_triton(MOE_COMBINE, rows, weights, grouped, out=[into])
    odd = torch.zeros(4 * 24 + 1, device=device)[1:].view(4, 24)
    with pytest.raises(InputError, match="MoeCombine: rows starts 4 bytes past a multiple of 16"):
        run_triton(MOE_COMBINE, odd, weights, grouped)
    with pytest.raises(InputError, match="MoeCombine: combined starts 4 bytes past a multiple of 16"):
        run_triton(MOE_COMBINE, rows, weights, grouped, out=[odd[:2]])


def test_an_output_over_its_input_is_a_kind_of_its_own(device):
    """The kernel writes a row of the pool there; elsewhere it writes rows of their own."""
    pages = [torch.zeros(3, 2, 16, 8, device=device) for _ in range(2)]
    block = [torch.ones(1, 2, 16, device=device), torch.full((1, 2, 16), 2.0, device=device)]
    table = torch.tensor([[2]], dtype=torch.int32, device=device)
    lengths = torch.tensor([5], dtype=torch.int32, device=device)
    apart = [torch.empty_like(page) for page in pages]
    for out in (apart, pages, apart, pages):
        made = run_triton(PAGE_WRITE, *block, *pages, table, lengths, out=out)
        for new, value in zip(made, (1.0, 2.0), strict=True):
            assert (new[2, :, 5:7] == value).all()
            assert new.count_nonzero() == 2 * 2 * 8
    assert made[0] is pages[0]


def test_cpu_tensors_need_the_interpreter(monkeypatch):
    run_triton(MOE_COMBINE, *combine_inputs())
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(BackendError, match="set TRITON_INTERPRET=1 before"):
        run_triton(MOE_COMBINE, *combine_inputs())


def test_importing_launch_and_plugins_needs_no_triton():
    code = (
        "import sys, ttc.plugins.registration, ttc.plugins.launch\n"
        "assert not {'triton', 'torch', 'tensorrt'} & sys.modules.keys()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
