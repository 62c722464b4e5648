"""What the assembled code of every kernel says at the real model's sizes, and what follows from it if nothing
else holds a GPU up.

    python -m benchmarks.kernel_code [-o FILE] [--ops MoeUp …] [--targets 9.0 …]

Needs no GPU and measures no time. Kernels are those of a denoise step (16 tokens of one row) and of an AR
step (one token), in bfloat16, each with the tile that such a call selects; stacks of experts in rows, as
engines have them, and in tiles, as torch has them. What is split, a context or the vocabulary, is in 16 parts
in both.

    loop             the innermost loop that multiplies matrices or loads most, the whole program where there
                     is none, both sides of a branch counted: instructions a thread, loads from global memory
                     by width in bytes, matrix instructions
    per_element      thread instructions of the loop for every element that it loads, in elements of the
                     kernel's largest input
    programs         of one launch
    predicted_share  of the floor, a *prediction*: floor / max(floor, issue), where
                     floor = bytes / bandwidth, bytes as `ttc.plugins.costs` has them;
                     issue = instructions of the warps / (4 · processors · clock), times what uneven programs
                     leave idle, ⌈programs / processors⌉ · processors / programs.
                     Instructions are those outside of the loop once a program, and those of the loop once for
                     all bytes that it loads in a pass. Latency, launches and caches are left out: it is an
                     upper limit, and says nothing of kernels of a few kilobytes, which are all latency.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

if __name__ == "__main__":  # whoever imports this has decided
    os.environ.pop("TRITON_INTERPRET", None)  # interpreted kernels cannot be compiled

import triton

from benchmarks.kernels_ptx import ATTRIBUTES, DIMS, problem, stored_in
from benchmarks.machine_code import load_widths, matrix_instructions, read_code
from ttc.base.dims import evaluate
from ttc.base.dtypes import numpy_dtype
from ttc.base.files import write_whole
from ttc.bench.record_file import record_file
from ttc.errors import BackendError
from ttc.plugins.costs import op_cost
from ttc.plugins.kernels import KERNELS
from ttc.plugins.launch import KernelSpec
from ttc.plugins.ops import TensorSpec
from ttc.plugins.ptx import assemble, compile_launch, disassemble

COMPUTE_BYTES = 2
# Letters that differ from call to call, of one row: a context of 2,048 tokens in pages, a pool of 64 rows.
CALL = {"B": 1, "C": 2048, "R": 64, "U": 8192, "O": 128}
CALLS = {"denoise": 16, "ar": 1}  # → tokens


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of an architecture, by its data sheet: processors, clock in Hz, bytes a second from memory."""

    name: str
    processors: int
    clock: float
    bandwidth: float


GPUS: Mapping[str, Gpu] = {
    "8.0": Gpu("A100 SXM 80 GB", 108, 1.41e9, 2.04e12),
    "9.0": Gpu("H100 SXM", 132, 1.83e9, 3.35e12),
    "10.0": Gpu("B200", 148, 1.85e9, 8.0e12),
    "12.0": Gpu("RTX 5090", 170, 2.41e9, 1.79e12),
}


def main() -> None:
    """Compile, disassemble, count; print a JSON; exit status 1 where a kernel could not be compiled."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("-o", "--output", type=record_file, help="also write the JSON to this file")
    parser.add_argument("--ops", nargs="+", default=list(KERNELS), choices=list(KERNELS))
    parser.add_argument("--targets", nargs="+", default=list(GPUS), choices=list(GPUS))
    options = parser.parse_args()
    rows = [
        report(op, stored, tile, target, in_tiles=in_tiles)
        for op in options.ops
        for stored in stored_in(KERNELS[op])
        for tile in tiles_of(KERNELS[op])
        for in_tiles in ((False, True) if KERNELS[op].tiled else (False,))
        for target in options.targets
    ]
    head = {
        "triton": triton.__version__,
        "command": " ".join(["python", "-m", "benchmarks.kernel_code", *sys.argv[1:]]),
        "gpus": {target: GPUS[target].name for target in options.targets},
        "predicted": "predicted_share is reckoned from the code and data sheets; no GPU has run it",
    }
    # One line a kernel, so that a difference can be read.
    lines = ",\n  ".join(map(json.dumps, rows))
    text = json.dumps(head, indent=1).removesuffix("\n}") + f',\n "kernels": [\n  {lines}\n ]\n}}'
    if options.output:
        write_whole(options.output, text + "\n")
    print(text)
    sys.exit(any("error" in row for row in rows))


def dims_of(call: str) -> dict[str, int]:
    """Return all sizes of a call."""
    return DIMS | CALL | {"L": CALLS[call], "T": CALL["B"] * CALLS[call]}


def tiles_of(spec: KernelSpec) -> dict[int, list[str]]:
    """Return the tiles that the calls select, in torch or in engines, each with these calls."""
    chosen: dict[int, list[str]] = {}
    for call in CALLS:
        sizes = _with_sums(spec, dims_of(call))
        for tile in {spec.select_tile(sizes), (spec.select_wide or spec.select_tile)(sizes)}:
            chosen.setdefault(tile, []).append(call)
    return chosen


def report(op: str, stored: str | None, tile: int, target: str, *, in_tiles: bool = False) -> dict[str, Any]:
    """Return what one kernel's code says, or the error."""
    spec = KERNELS[op]
    weights = "tiles" if in_tiles else None
    what = {"op": op, "stored": stored, "weights": weights, "tile": spec.tiles[tile].name, "target": target}
    what = {name: value for name, value in what.items() if value is not None}
    asked = problem(spec, "bfloat16", stored, target)
    dims = _with_sums(spec, {**asked.dims, **CALL, "L": 16, "T": 16})
    sides = dict.fromkeys(spec.tiled, 64) if in_tiles else {}
    launch = spec.bind(replace(asked, dims=dims, weight_tiles=sides), tile)
    try:
        kernel = compile_launch(launch, target)
        assembled, code = assemble(kernel), read_code(disassemble(kernel))
    except BackendError as error:
        return what | {"error": str(error)}
    loop, warps = code.hot(), kernel.num_warps
    loads, matrix = load_widths(loop), matrix_instructions(loop)
    loaded = sum(width * count for width, count in loads.items()) * 32 * warps
    element = _element_bytes(spec, asked.dims, stored)
    outside = sum(not each.startswith("NOP") for each in code.instructions) - len(loop)
    calls = tiles_of(spec)[tile]
    programs = {call: _programs(launch, spec, call) for call in calls}
    return what | {
        "registers": assembled.registers,
        "spill_bytes": assembled.spill_bytes,
        "shared_bytes": kernel.shared_bytes + assembled.static_shared_bytes,
        "warps": warps,
        "loop": {"instructions": len(loop), "loads": dict(sorted(loads.items())), "matrix": dict(matrix)},
        "all_matrix": sum(matrix_instructions(code.instructions).values()),
        "widest_load": max(load_widths(code.instructions), default=0),
        "per_element": round(len(loop) * 32 * warps / (loaded / element), 2) if loaded else None,
        "programs": programs,
        "predicted_share": {
            call: predicted_share(
                _bytes(spec, call, stored), loaded, len(loop) * warps, outside * warps, programs[call], target
            )
            for call in calls
        },
    }


def predicted_share(moved: float, loaded: int, loop: int, outside: int, programs: int, target: str) -> float:
    """Return the share of the floor that is left if a GPU did nothing but issue instructions and move bytes.

    Args:
        moved: bytes that a launch must move.
        loaded: bytes that a program loads in a pass of its loop; 0: it loads none there, and one pass counts.
        loop, outside: instructions of a program's warps, in a pass of the loop and outside of it.
        programs: of the launch.
        target: compute capability, one of `GPUS`.
    """
    gpu = GPUS[target]
    passes = moved / loaded if loaded else programs
    rounds = -(-programs // gpu.processors)
    uneven = rounds * gpu.processors / programs
    issue = (passes * loop + programs * outside) * uneven / (gpu.processors * 4 * gpu.clock)
    floor = moved / gpu.bandwidth
    return round(floor / max(floor, issue), 3)


def regressions(found: Sequence[Mapping[str, Any]], recorded: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in what kernels are worse than a record of them: a new spill, matrix instructions that are gone,
    narrower loads, more instructions an element by a tenth, more shared memory by a half.
    """
    before = {_key(row): row for row in recorded}
    worse = []
    for row in found:
        old = before.get(_key(row))
        if old is None:
            continue
        what = " ".join(map(str, filter(None, _key(row))))
        if "error" in row:
            worse.append(f"{what}: {row['error']}")
            continue
        if row["spill_bytes"] > old["spill_bytes"]:
            worse.append(f"{what}: spills {row['spill_bytes']} bytes, {old['spill_bytes']} before")
        if row["all_matrix"] == 0 < old["all_matrix"]:
            worse.append(f"{what}: no matrix instructions, {old['all_matrix']} before")
        if row["widest_load"] < old["widest_load"]:
            worse.append(f"{what}: loads of {row['widest_load']} bytes, {old['widest_load']} before")
        if old["per_element"] and (row["per_element"] or 0) > 1.1 * old["per_element"]:
            worse.append(f"{what}: {row['per_element']} instructions an element, {old['per_element']} before")
        if row["shared_bytes"] > 1.5 * old["shared_bytes"] + 1024:
            worse.append(f"{what}: {row['shared_bytes']} shared bytes, {old['shared_bytes']} before")
    return worse


def _key(row: Mapping[str, Any]) -> tuple[str | None, ...]:
    return row["op"], row.get("stored"), row.get("weights"), row["tile"], row["target"]


def _programs(launch: Any, spec: KernelSpec, call: str) -> int:
    x, y, z = launch.programs(_with_sums(spec, dims_of(call)))
    return int(x * y * z)


def _with_sums(spec: KernelSpec, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return sizes with every dimension of the op's inputs by its text, as `OpSpec.dims` gives them."""
    texts = {str(dim) for tensor in spec.op.inputs for dim in tensor.shape}
    groups = {dim: sizes.get(dim, sizes[dim[0]] // 16) for dim in texts if dim in ("DB", "IB")}
    known = {**ATTRIBUTES, **sizes, **groups}
    return known | {text: evaluate(text, known) for text in texts}


def _bytes(spec: KernelSpec, call: str, stored: str | None) -> float:
    kinds = {"stored": stored} if stored in ("float4_e2m1fn", "int4") else {}
    return op_cost(spec.op, {**ATTRIBUTES, **dims_of(call)}, COMPUTE_BYTES, **kinds).bytes


def _element_bytes(spec: KernelSpec, dims: Mapping[str, int], stored: str | None) -> float:
    """Return the size of an element of the largest input."""
    sizes = _with_sums(spec, {**dims, **CALL, "L": 16, "T": 16})

    def numbers(tensor: TensorSpec) -> int:
        count = 1
        for dim in tensor.shape:
            count *= sizes[str(dim)]
        return count

    largest = max(spec.op.inputs, key=numbers)
    if largest.dtype == "stored4":
        return 0.5
    named = {"compute": COMPUTE_BYTES, "stored8": 1, "group_scale": 1}
    return named.get(largest.dtype) or numpy_dtype(largest.dtype).itemsize


if __name__ == "__main__":
    main()
