"""What assembled code says of a kernel, and that a worse one shows against a record."""

import pytest

from benchmarks.kernel_code import CALLS, GPUS, predicted_share, regressions, tiles_of
from benchmarks.machine_code import load_widths, matrix_instructions, read_code
from ttc.plugins.kernels import KERNELS

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
        assert sorted(call for calls in tiles_of(spec).values() for call in calls) == sorted(CALLS)


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
