"""An op is its folder: one that is put beside the others is found by everything that works on ops."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]


def contributing_example() -> str:
    """Return the `__init__.py` that CONTRIBUTING.md shows for a new op."""
    section = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("\n## Adding an op\n", 1)[1]
    return dedent(section.split("```python\n", 1)[1].split("   ```", 1)[0])


FOLDER = {
    "__init__": contributing_example(),
    "naive": """
def my_op(x, scale):
    return ((x.float() * scale[:, None]).to(x.dtype),)
""",
    "function": '''
from ttc.plugins.onnx_text import render

TEXT = """
MyOp (x, scale) => (y)
{
    column_shape = Constant <value_ints: ints = [-1, 1]> ()
    column = Reshape (scale, column_shape)
    wide = Constant <value_ints: ints = [1, $D]> ()
    scales = Expand (column, wide)
    x_f = Cast <to: int = 1> (x)
    product = Mul (x_f, scales)
    y = CastLike (product, x)
}
"""


def my_op(values):
    return render(TEXT, values)
''',
    "kernel": """
import triton
import triton.language as tl

from ttc.plugins import launch
from ttc.plugins.my_op import MY_OP


@triton.jit
def scale(x_ptr, scale_ptr, y_ptr, D: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    at = row * D + columns
    x = tl.load(x_ptr + at, mask=columns < D, other=0.0).to(tl.float32)
    y = x * tl.load(scale_ptr + row)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=columns < D)


my_op = launch.KernelSpec(
    op=MY_OP,
    kernel=scale,
    changing=("T",),
    integers=(),
    tiles=(launch.Tile("all", {}, num_warps=4),),
    select_tile=lambda dims: 0,
    constants=lambda problem, tile: {"D": problem.dims["D"], "BLOCK": launch.power_of_two(problem.dims["D"])},
    grid=lambda dims, constants, minimum: (dims["T"],),
)
""",
    "cost": """
def my_op(dims):
    return dims["T"] * dims["D"]
""",
}

FOUND = """
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

import ttc.plugins

ttc.plugins.__path__.append(sys.argv[1])

from tests.support.kernels import check_against_naive
from tests.support.single_op import run_body
from ttc.exporter.engines.source_digests import kernel_digests
from ttc.plugins.costs import Cost, op_cost
from ttc.plugins.kernels import KERNELS
from ttc.plugins.naive import run_naive
from ttc.plugins.registration import register_all
from ttc.plugins.table import OPS, markdown

op = OPS[-1]
assert op.name == "MyOp" and len(OPS) > 1
assert "`MyOp`" in markdown()

x, scale = torch.arange(12.0).view(3, 4), torch.tensor([1.0, 2.0, -3.0])
(y,) = run_naive(op, x, scale)
assert torch.equal(y, x * scale[:, None])
(body,) = run_body(op, [x.numpy(), scale.numpy()], {})
assert np.array_equal(body, y.numpy())
assert KERNELS[op.name].op is op
check_against_naive(op, (x, scale), "cpu", atol=0.0)

assert op_cost(op, {"T": 3, "D": 4}, 4) == Cost(12, (12 + 3 + 12) * 4)

registered = defaultdict(list)
def registers(kind):
    return lambda name: lambda function: registered[name].append(kind)
kinds = ("TensorDesc", "AutoTuneCombination", "KernelLaunchParams", "SymIntExprs")
steps = {kind: registers(kind) for kind in ("register", "autotune", "aot_impl")}
trtp = SimpleNamespace(op=SimpleNamespace(), **{kind: int for kind in kinds}, **steps)
register_all(trtp, lambda: "9.0")
assert registered["ttc::MyOp"] == ["register", "autotune", "aot_impl"]

before = kernel_digests()["MyOp"]
Path(sys.argv[1], "my_op", "cost.py").write_text("# another formula")
assert kernel_digests()["MyOp"] == before
Path(sys.argv[1], "my_op", "kernel.py").write_text("# another kernel")
assert kernel_digests()["MyOp"] != before
"""


def test_an_op_is_found_by_its_folder_alone(tmp_path):
    folder = tmp_path / "my_op"
    folder.mkdir()
    for name, text in FOLDER.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", FOUND, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
