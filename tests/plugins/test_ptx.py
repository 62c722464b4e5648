"""Kernels compiled ahead of time for every architecture, in processes without the interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ttc.errors import BackendError
from ttc.plugins import ptx
from ttc.plugins.kernels import KERNELS
from ttc.plugins.launch import Problem
from ttc.plugins.ops import CHOICES
from ttc.plugins.ptx import MAX_SHARED_BYTES, MAX_WIDE_SHARED_BYTES, CompiledKernel, assemble, compile_launch
from ttc.plugins.targets import TARGETS

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}


# 9.0 has a test of its own.
FAMILIES = ("8.0", "8.6", "8.9", "10.0", "12.0")


def report(*arguments):
    """What benchmarks/kernels_ptx.py says, by (op and what its weights are stored in, tile, target)."""
    command = [sys.executable, "benchmarks/kernels_ptx.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    kernels = json.loads(done.stdout)["kernels"]
    return {((k["op"], k.get("stored")), k["tile"], k["target"]): k for k in kernels}


def every_kernel():
    """All ops, each with everything that its weights may be stored in."""
    found = set()
    for name, spec in KERNELS.items():
        words = {tensor.dtype for tensor in spec.op.inputs} & {"stored8", "stored4"}
        found |= {(name, stored) for stored in (CHOICES[words.pop()] if words else [None])}
    return found


def check(kernels):
    assert not [kernel for kernel in kernels.values() if "error" in kernel]
    for kernel in kernels.values():
        granted = MAX_WIDE_SHARED_BYTES if kernel.get("wide") else MAX_SHARED_BYTES
        assert kernel["shared_bytes"] <= granted, kernel
        assert 0 < kernel["registers"] <= 255, kernel
        assert kernel["spill_bytes"] <= 128, kernel  # a handful of registers, not a kernel in local memory


# Glue has nothing that differs between architectures, but for attention's matrix products.
ATTENTION = ("BlockAttention", "CacheSplits", "PagedAttention", "PageSplits")
DIFFER = [name for name, spec in KERNELS.items() if not spec.op.glue or name in ATTENTION]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(len(FAMILIES)), ids=FAMILIES)
@pytest.mark.parametrize("share", ["a fifth", pytest.param("all", marks=pytest.mark.full)])
def test_every_kernel_for_every_family_of_architectures(number, share):
    """At the real sizes in bfloat16; that ptxas took the PTX without Triton's parameters is part of it."""
    family, ops = FAMILIES[number], DIFFER if share == "all" else DIFFER[number :: len(FAMILIES)]
    kernels = report("--ops", *ops, "--dtypes", "bfloat16", "--first-tile-only", "--targets", family)
    assert {op for op, _, _ in kernels} == {op for op in every_kernel() if op[0] in ops}
    check(kernels)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("share", ["some", pytest.param("all", marks=pytest.mark.full)])
def test_every_tile(share):
    """Every tactic, for 9.0; without --full those of ops of every family with more than two."""
    some = ["MoeUp", "MoeUpScaled", "MoeUpBlocked", "MoeRouting", "MambaScan", "CacheSplits", "SplitPredict"]
    ops = list(KERNELS) if share == "all" else some
    kernels = report("--ops", *ops, "--dtypes", "bfloat16", "--targets", "9.0")
    assert {(op, tile) for op, tile, _ in kernels} == {
        (op, tile.name) for op in every_kernel() if op[0] in ops for tile in KERNELS[op[0]].tiles
    }
    check(kernels)


@pytest.mark.slow
def test_a_walk_that_multiplies_in_float32():
    """Its registers are enough in the dtypes that no matrix unit multiplies in three parts."""
    check(report("--ops", "MambaLongMixer", "--dtypes", "float32", "float16", "--targets", "9.0"))


@pytest.mark.slow
def test_their_later_members():
    """The architectures beside those, each with a kernel that uses tensor cores and one that does not."""
    others = sorted(TARGETS.keys() - {"9.0", *FAMILIES})
    some = ("--ops", "MoeUp", "MoeCombine", "--dtypes", "bfloat16", "--first-tile-only")
    check(report(*some, "--targets", *others))


def check_instructions(rows):
    """What the limits on decoding are: see benchmarks/kernel_instructions.py."""
    by_bits = [row for row in rows if row["stored"] == "float8_e4m3fn" and row["target"] in ("8.0", "8.6")]
    for row in rows:
        assert row["spill_bytes"] == 0, row
        assert row["shared_bytes"] <= MAX_SHARED_BYTES, row
        if row["stored"] != "int4" and row not in by_bits:
            assert row["instructions_a_weight"] <= 6, row


def test_recorded_instructions():
    """Of every target and every tile for few tokens, as recorded."""
    record = json.loads((ROOT / "benchmarks" / "results" / "kernel_instructions.json").read_text())
    rows = record["kernels"]
    assert {row["target"] for row in rows} == set(TARGETS)
    assert {row["stored"] for row in rows} == {"bfloat16", *CHOICES["stored8"], *CHOICES["stored4"]}
    check_instructions(rows)


@pytest.mark.slow
def test_instructions_are_as_recorded():
    """Of the first tile of one architecture: the same compiler gives the same count."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.kernel_instructions",
        "--targets",
        "9.0",
        "--first-tile-only",
    ]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    check_instructions(found["kernels"])
    record = json.loads((ROOT / "benchmarks" / "results" / "kernel_instructions.json").read_text())
    if found["triton"] == record["triton"]:
        assert [row for row in found["kernels"] if row not in record["kernels"]] == []


FAULTS = """
import json
from dataclasses import replace
from ttc.errors import BackendError
from ttc.plugins import ptx
from ttc.plugins.kernels import KERNELS
from ttc.plugins.launch import Problem, Tile

spec = KERNELS["MoeCombine"]
launch = spec.bind(Problem({"D": 40, "K": 2}, {}, "float16"))

def refusal(action):
    try:
        return action() and "nothing was refused"
    except BackendError as error:
        return str(error)

good = ptx.compile_launch(launch, "9.0")
product = KERNELS["MoeUp"].bind(Problem({"D": 256, "I": 256, "E": 4, "K": 2}, {}, "float32"), 6)
wide = {**product.constants, "BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64}
odd = {**launch.constants, "BLOCK_D": 3}  # no power of two
print(json.dumps({
    "target": refusal(lambda: ptx.compile_launch(launch, "7.5")),
    "compile": refusal(lambda: ptx.compile_launch(replace(launch, constants=odd), "9.0")),
    "shared": refusal(lambda: ptx.compile_launch(replace(product, constants=wide), "8.0")),
    "ptxas": refusal(lambda: ptx.assemble(replace(good, ptx=good.ptx.replace("ret;", "retreat;")))),
    "parameters": good.ptx.split("(", 1)[1].split(")", 1)[0].count(".param"),
    "registers": ptx.assemble(good).registers,
}))
"""


def test_faults_are_refused_with_their_cause():
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert "compute capability 7.5" in said["target"]
    assert ", ".join(TARGETS) in said["target"]
    assert "could not compile the kernel of MoeCombine" in said["compile"]
    assert "bytes of shared memory" in said["shared"]
    assert "ptxas refuses combine" in said["ptxas"]
    assert said["parameters"] == 4, "three inputs and an output; Triton's own two are gone"
    assert said["registers"] > 0


def entry(*parameters, body="ret;"):
    listed = ",\n".join(f"\t.param .u64 .ptr .global .align 1 {name}" for name in parameters)
    return f".target sm_90a\n.visible .entry k(\n{listed}\n)\n{{\n{body}\n}}\n"


def test_hidden_parameters_are_removed_only_if_nothing_reads_them():
    four = ("k_param_0", "k_param_1", "k_param_2", "k_param_3")
    assert ptx._without_hidden_pointers(entry(*four), 2) == entry(*four[:2])
    with pytest.raises(BackendError, match="4 parameters, expected 3 and 2 hidden ones"):
        ptx._without_hidden_pointers(entry(*four), 3)
    reading = entry(*four, body="ld.param.b64 %rd1, [k_param_3];")
    with pytest.raises(BackendError, match="reads Triton's hidden parameter k_param_3"):
        ptx._without_hidden_pointers(reading, 2)
    thirteen = tuple(f"k_param_{i}" for i in range(13))
    reading_another = entry(*thirteen, body="ld.param.b64 %rd1, [k_param_1];")
    assert "[k_param_1]" in ptx._without_hidden_pointers(reading_another, 11)


def test_the_interpreter_compiles_nothing(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    launch = KERNELS["MoeCombine"].bind(Problem({"D": 40, "K": 2}, {}, "float16"))
    with pytest.raises(BackendError, match="TRITON_INTERPRET is set"):
        compile_launch(launch, "9.0")


def test_assemble_names_the_architecture():
    """Text that is no PTX for the target it claims."""
    broken = CompiledKernel("k", entry("a").replace("ret;", "nonsense;"), "9.0", 4, 0)
    with pytest.raises(BackendError, match=r"ptxas refuses k for 9\.0"):
        assemble(broken)
