"""What assembled code says of a kernel, and that a worse one shows against a record."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kernel_code import CALLS, GPUS, predicted_share, regressions, tiles_of
from benchmarks.kernels_ptx import stored_in
from benchmarks.machine_code import load_widths, matrix_instructions, read_code
from ttc.plugins.kernels import KERNELS

ROOT = Path(__file__).parents[2]
# By the version of Triton that made the code: today's, and that of GPU machines of 2026.
RECORDS = {"3.9.0": "kernel_code.json", "3.6.0": "kernel_code_triton_3.6.json"}
SPILLING = {
    "3.9.0": {("MambaScan", "12.0")},
    "3.6.0": {("MambaMixer", "8.0"), ("BlockAttention", "8.0"), ("DiffusionPredict", "12.0")},
}
MOST_SPILLED_BYTES = 32  # four registers, stored and loaded
# These read or multiply most of what a step does, with matrix units and in 16-byte loads.
MULTIPLYING = {
    *("MoeUp", "MoeDown", "MoeUpScaled", "MoeDownScaled", "MoeUpBlocked", "MoeDownBlocked"),
    *("MambaReading", "MambaMixer", "BlockAttention", "CacheSplits", "PagedAttention", "PageSplits"),
}

# As nvdisasm writes it: a loop in a loop, predicates, padding and the jump to itself behind the end.
TEXT = """
\t.section\t.text.k
.text.k:
        /*0000*/                   LDC R1, c[0x0][0x37c] ;
        /*0010*/                   LDG.E.U16 R2, desc[UR4][R2.64] ;
.L_x_1:
        /*0020*/                   LDG.E.64 R4, desc[UR4][R2.64] ;
.L_x_0:
        /*0030*/              @!P0 LDGSTS.E.BYPASS.128 [R6], desc[UR4][R8.64] ;
        /*0040*/                   HMMA.16816.F32.BF16 R12, R20, R24, R12 ;
        /*0050*/                   NOP ;
        /*0060*/               @P1 BRA `(.L_x_0) ;
        /*0070*/              @!P2 BRA `(.L_x_1) ;
        /*0080*/                   EXIT ;
.L_x_2:
        /*0090*/                   BRA `(.L_x_2);
        /*00a0*/                   NOP;
"""


def test_reading_code():
    code = read_code(TEXT)
    assert [len(code.of(loop)) for loop in code.loops] == [3, 5]
    (inner,) = code.innermost
    assert code.hot() == code.of(inner)
    assert [each.split(".")[0].split()[0] for each in code.hot()] == ["LDGSTS", "HMMA", "BRA"]
    assert load_widths(code.hot()) == {16: 1}
    assert load_widths(code.instructions) == {2: 1, 8: 1, 16: 1}
    assert matrix_instructions(code.instructions) == {"HMMA": 1}
    kinds = ["HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24", "UTCHMMA gdesc[UR6]", "IMAD R1, R2, R3, R4"]
    assert matrix_instructions(kinds) == {"HGMMA": 1, "UTCHMMA": 1}
    straight = read_code(TEXT.replace("BRA `(.L_x_0)", "NOP").replace("BRA `(.L_x_1)", "NOP"))
    assert len(straight.hot()) == 7, "without a loop all that is no padding"


def test_predicted_share():
    gpu = GPUS["9.0"]
    even = 4 * gpu.processors
    rate = gpu.processors * 4 * gpu.clock
    # As many instructions as are issued while a pass's bytes come take as long as those.
    moved, loaded = 1e9, 4096
    enough = round(loaded / gpu.bandwidth * rate)
    assert predicted_share(moved, loaded, enough, 0, even, "9.0") == pytest.approx(1, abs=0.05)
    assert predicted_share(moved, loaded, 2 * enough, 0, even, "9.0") == pytest.approx(0.5, abs=0.03)
    assert predicted_share(moved, loaded, 2 * enough, 0, 1, "9.0") == pytest.approx(
        0.5 / gpu.processors, abs=0.001
    ), "on one processor of all"
    assert predicted_share(moved, loaded, 0, enough, round(moved / loaded), "9.0") == pytest.approx(
        1, abs=0.05
    )


def test_every_kernel_has_a_tile_for_both_calls():
    for spec in KERNELS.values():
        assert {call for calls in tiles_of(spec).values() for call in calls} == set(CALLS)


ROW = {
    "op": "MoeUp",
    "tile": "decode-64",
    "target": "9.0",
    "spill_bytes": 0,
    "shared_bytes": 30720,
    "all_matrix": 8,
    "widest_load": 16,
    "per_element": 1.82,
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spill_bytes": 8}, "spills 8 bytes, 0 before"),
        ({"all_matrix": 0}, "no matrix instructions, 8 before"),
        ({"widest_load": 4}, "loads of 4 bytes, 16 before"),
        ({"per_element": 2.4}, "2.4 instructions an element, 1.82 before"),
        ({"shared_bytes": 49152}, "49152 shared bytes, 30720 before"),
        ({"error": "needs another tile"}, "needs another tile"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_worse_shows(change, said):
    assert regressions([ROW | change], [ROW]) == [f"MoeUp decode-64 9.0: {said}"]
    assert regressions([ROW], [ROW | change] if "error" not in change else [ROW]) == []
    assert regressions([ROW | change | {"tile": "new"}], [ROW]) == [], "nothing to compare it with"


def record(version):
    return json.loads((ROOT / "benchmarks" / "results" / RECORDS[version]).read_text("utf-8"))


@pytest.mark.parametrize("version", RECORDS)
def test_recorded_code(version):
    """Every kernel, for every architecture, with both versions of Triton."""
    found = record(version)
    rows = found["kernels"]
    assert found["triton"] == version
    assert (ROOT / "benchmarks" / "results" / RECORDS[version]).stat().st_size < 300_000
    everything = {(op, stored) for op, spec in KERNELS.items() for stored in stored_in(spec)}
    assert {(row["op"], row.get("stored")) for row in rows} == everything
    assert {row["target"] for row in rows} == GPUS.keys()
    assert not [row for row in rows if "error" in row]
    assert {(row["op"], row["target"]) for row in rows if row["spill_bytes"]} == SPILLING[version]
    assert not [row for row in rows if row["spill_bytes"] > MOST_SPILLED_BYTES]
    for row in rows:
        if row["op"] in MULTIPLYING:
            assert row["all_matrix"] > 0, row
            assert row["widest_load"] >= 16, row


@pytest.mark.parametrize("version", RECORDS)
def test_weights_in_tiles_are_read_as_weights_in_rows(version):
    """By loads as wide, in loops a tenth longer at most."""

    def key(row):
        return row["op"], row.get("stored"), row["tile"], row["target"]

    rows = record(version)["kernels"]
    of_rows = {key(row): row for row in rows if "weights" not in row}
    of_tiles = [row for row in rows if row.get("weights") == "tiles"]
    assert {row["op"] for row in of_tiles} == {op for op, spec in KERNELS.items() if spec.tiled}
    for row in of_tiles:
        loop, twin = row["loop"], of_rows[key(row)]["loop"]
        assert loop["loads"] == twin["loads"], row
        assert loop["instructions"] <= 1.1 * twin["instructions"], row


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_code_is_not_worse_than_recorded():
    """Of some kernels of one architecture, where the same compiler made the record."""
    ops = ["MoeUp", "MambaReading", "CacheSplits", "SplitPredict", "GatedMixtureResidualModulatedNorm"]
    command = [sys.executable, "-m", "benchmarks.kernel_code", "--targets", "9.0", "--ops", *ops]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {row["op"] for row in found["kernels"]} == set(ops)
    if found["triton"] in RECORDS:
        recorded = record(found["triton"])["kernels"]
        names = [(row["op"], row["tile"]) for row in recorded]
        assert all((row["op"], row["tile"]) in names for row in found["kernels"])
        assert regressions(found["kernels"], recorded) == []
