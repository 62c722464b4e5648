"""Compiles every kernel for every architecture at the real model's sizes and reports what ptxas says:
registers, spills, shared memory. Needs no GPU and measures no time.

    python benchmarks/kernels_ptx.py [-o FILE] [--ops MoeUp …] [--dtypes bfloat16 …] [--targets 9.0 …]
        [--first-tile-only]
"""

import argparse
import json
import os
import sys
from typing import Any

if __name__ == "__main__":  # whoever imports this has decided
    os.environ.pop("TRITON_INTERPRET", None)  # interpreted kernels cannot be compiled

import triton

from ttc.base.files import write_whole
from ttc.base.names import COMPUTE_DTYPES
from ttc.base.quantised import WEIGHT_FORMATS
from ttc.bench.record_file import record_file
from ttc.errors import BackendError
from ttc.plugins.kernels import KERNELS
from ttc.plugins.launch import KernelSpec, Problem
from ttc.plugins.ops import CHOICES
from ttc.plugins.ptx import MAX_SHARED_BYTES, MAX_WIDE_SHARED_BYTES, assemble, compile_launch
from ttc.plugins.targets import TARGETS

# Of the released model (docs/model.md, Real sizes), in the letters of the ops' signatures.
DIMS = {
    "D": 2688,
    "I": 1856,
    "E": 128,
    "K": 6,
    "H": 64,
    "P": 64,
    "N": 128,
    "F": 6144,
    "M": 4096,
    "S": 3712,
    "Q": 4096,
    "A": 32,
    "X": 16,
    "J": 2,
    "Y": 128,
    "W": 4,
    "V": 131072,
    "Z": 16,
}
ATTRIBUTES = {
    "K": 6,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": 1,
    "routed_scaling_factor": 2.5,
    "G": 8,
    "W": 4,
    "mask_id": 3,
    "epsilon": 1e-5,
    "causal": 1,
    "X": 16,
    "A": 32,
}


def main() -> None:
    """Compile, assemble, print a JSON; exit status 1 where a kernel could not be compiled."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("-o", "--output", type=record_file, help="also write the JSON to this file")
    parser.add_argument("--ops", nargs="+", default=list(KERNELS), choices=list(KERNELS))
    parser.add_argument("--dtypes", nargs="+", default=sorted(COMPUTE_DTYPES))
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--first-tile-only", action="store_true")
    options = parser.parse_args()
    kernels = [
        report(spec, tile, dtype, stored, target)
        for spec in (KERNELS[name] for name in options.ops)
        for tile in range(1 if options.first_tile_only else len(spec.tiles))
        for dtype in dtypes_of(spec, options.dtypes)
        for stored in stored_in(spec)
        for target in options.targets
    ]
    result = {
        "triton": triton.__version__,
        "command": " ".join(["python", "benchmarks/kernels_ptx.py", *sys.argv[1:]]),
        "max_shared_bytes": MAX_SHARED_BYTES,
        "max_wide_shared_bytes": MAX_WIDE_SHARED_BYTES,
        "dims": DIMS,
        "attributes": ATTRIBUTES,
    }
    # One line a kernel, so that a difference can be read.
    lines = ",\n  ".join(map(json.dumps, kernels))
    text = json.dumps(result, indent=1).removesuffix("\n}") + f',\n "kernels": [\n  {lines}\n ]\n}}'
    if options.output:
        write_whole(options.output, text + "\n")
    print(text)
    sys.exit(any("error" in kernel for kernel in kernels))


def dtypes_of(spec: KernelSpec, wanted: list[str]) -> list[str]:
    """Return the wanted dtypes, but one only for a kernel that has no tensor of the compute dtype."""
    has_compute = any(tensor.dtype == "compute" for tensor in (*spec.op.inputs, *spec.op.outputs))
    return wanted if has_compute else wanted[:1]


def stored_in(spec: KernelSpec) -> tuple[str | None, ...]:
    """Return what its weights may be stored in; None for a kernel that takes none of eight or four bits."""
    words = {tensor.dtype for tensor in spec.op.inputs} & {"stored8", "stored4"}
    return CHOICES[words.pop()] if words else (None,)


def problem(spec: KernelSpec, dtype: str, stored: str | None, target: str) -> Problem:
    """Return the real model's sizes for one kernel."""
    attributes = {name: ATTRIBUTES[name] for name in spec.op.attributes}
    (group,) = {each.group for each in WEIGHT_FORMATS.values() if each.codes == stored and each.family} or {0}
    groups = {f"{inner}B": DIMS[inner] // group for inner in "DI"} if group else {}
    return Problem(DIMS | groups, attributes, dtype, stored=stored, target=target)


def report(spec: KernelSpec, tile: int, dtype: str, stored: str | None, target: str) -> dict[str, Any]:
    """Return one kernel's figures, or the error."""
    what = {"op": spec.op.name, "tile": spec.tiles[tile].name, "dtype": dtype, "target": target}
    what |= {"stored": stored} if stored else {}
    what |= {"wide": True} if spec.tiles[tile].wide else {}
    try:
        compiled = compile_launch(spec.bind(problem(spec, dtype, stored, target), tile), target)
        assembled = assemble(compiled)
    except BackendError as error:
        return what | {"error": str(error)}
    return what | {
        "num_warps": compiled.num_warps,
        "shared_bytes": compiled.shared_bytes + assembled.static_shared_bytes,
        "registers": assembled.registers,
        "spill_bytes": assembled.spill_bytes,
    }


if __name__ == "__main__":
    main()
