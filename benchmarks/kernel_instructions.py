"""How many machine instructions the expert products' inner loop takes for a weight, read from assembled code.

    python -m benchmarks.kernel_instructions [-o FILE] [--targets 9.0 …]

Needs no GPU and measures no time. A GPU issues so many instructions a second; what a kernel takes for a
weight is therefore a limit on weights a second beside the memory's. With few tokens the memory has to be the
narrower one, so weights of half the bytes may take about twice the instructions that an H100 issues while it
reads them.

The loop is the innermost one with tensor-core instructions. Each of those (16 × 8 × 16) multiplies 128
weights by up to 16 rows, which says how many weights a pass of the loop decodes; that it is the tile's is
checked.
"""

import argparse
import json
import os
import sys
from typing import Any

if __name__ == "__main__":  # whoever imports this has decided
    os.environ.pop("TRITON_INTERPRET", None)  # interpreted kernels cannot be compiled

import triton

from benchmarks.kernels_ptx import DIMS, problem, stored_in
from benchmarks.machine_code import read_code
from ttc.base.files import write_whole
from ttc.bench.record_file import record_file
from ttc.plugins.kernels import KERNELS
from ttc.plugins.ptx import assemble, compile_launch, disassemble
from ttc.plugins.targets import TARGETS

WEIGHTS_OF_A_PRODUCT = 8 * 16  # of one HMMA.16816
# Up to here tokens are few, and every weight is multiplied once by one row tile.
ROWS = 16
PRODUCTS = ("MoeUp", "MoeDown", "MoeUpScaled", "MoeDownScaled", "MoeUpBlocked", "MoeDownBlocked")


def main() -> None:
    """Compile, disassemble, count; print a JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("-o", "--output", type=record_file, help="also write the JSON to this file")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--first-tile-only", action="store_true")
    options = parser.parse_args()
    rows = [
        count(op, stored, tile, target)
        for op in PRODUCTS
        for stored in stored_in(KERNELS[op])
        for tile, choice in enumerate(KERNELS[op].tiles[: 1 if options.first_tile_only else None])
        if choice.blocks["BLOCK_M"] == ROWS and not choice.wide
        for target in options.targets
    ]
    head = {
        "triton": triton.__version__,
        "command": " ".join(["python", "-m", "benchmarks.kernel_instructions", *sys.argv[1:]]),
        "dims": {letter: DIMS[letter] for letter in "DIEK"},
        "dtype": "bfloat16",
    }
    # One line a kernel, so that a difference can be read.
    lines = ",\n  ".join(map(json.dumps, rows))
    text = json.dumps(head, indent=1).removesuffix("\n}") + f',\n "kernels": [\n  {lines}\n ]\n}}'
    if options.output:
        write_whole(options.output, text + "\n")
    print(text)


def count(op: str, stored: str | None, tile: int, target: str) -> dict[str, Any]:
    """Return one kernel's figures."""
    launch = KERNELS[op].bind(problem(KERNELS[op], "bfloat16", stored, target), tile)
    kernel = compile_launch(launch, target)
    assembled = assemble(kernel)
    loop = inner_loop(disassemble(kernel))
    products_in_loop = sum(instruction.startswith("HMMA") for instruction in loop)
    weights = products_in_loop * WEIGHTS_OF_A_PRODUCT * kernel.num_warps
    blocks = launch.tile.blocks
    assert weights > 0
    assert weights % (blocks["BLOCK_N"] * blocks["BLOCK_K"]) == 0, f"{op}, {target}: {weights} weights"
    return {
        "op": op,
        "stored": stored or "bfloat16",
        "tile": launch.tile.name,
        "target": target,
        "registers": assembled.registers,
        "spill_bytes": assembled.spill_bytes,
        "shared_bytes": kernel.shared_bytes + assembled.static_shared_bytes,
        "loop_instructions": len(loop),
        "instructions_a_weight": round(len(loop) * 32 * kernel.num_warps / weights, 2),
    }


def inner_loop(text: str) -> list[str]:
    """Return the instructions of the shortest loop that multiplies matrices, without padding."""
    code = read_code(text)
    loops = [code.of(loop) for loop in code.loops]
    multiplying = [loop for loop in loops if any(each.startswith("HMMA") for each in loop)]
    assert multiplying, "no loop with tensor-core instructions"
    return min(multiplying, key=len)


if __name__ == "__main__":
    main()
