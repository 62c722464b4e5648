"""The kernels in CUDA C: compiled for the host against their references, and for every architecture."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from tests.support.cuda_tools import load_nvrtc, ptxas
from ttc.errors import BackendError
from ttc.plugins.targets import TARGETS
from ttc.runtime.gpu import append_kv, block_loop
from ttc.runtime.gpu.block_loop import SOURCE, read_record, record_words, update
from ttc.runtime.gpu.cuda import NOTHING_PTX
from ttc.runtime.gpu.nvrtc import compile_cubin, compile_ptx, is_cubin

# CUDA for one thread, enough for a kernel of one block: its loops then do all the work in turn.
HOST_CUDA = """
#include <string.h>
#define __global__
#define __device__
#define __cudart_builtin__
#define __device_builtin__
static struct { int x, y; } threadIdx = {0, 0}, blockDim = {1, 1}, blockIdx = {0, 0};
static int __syncthreads_or(int value) { return value; }
static int __float_as_int(float value) { int bits; memcpy(&bits, &value, 4); return bits; }
"""
SET = """
static int condition_set = -1;
extern "C" void cudaGraphSetConditional(cudaGraphConditionalHandle handle, unsigned int value) {
    condition_set = handle == 77 ? (int)value : -2;
}
extern "C" void set_program(int x, int y) { blockIdx.x = x; blockIdx.y = y; }
extern "C" int taken_condition() { int value = condition_set; condition_set = -1; return value; }
"""


@pytest.fixture(scope="module")
def host_kernel(tmp_path_factory):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the CUDA C with")
    folder = tmp_path_factory.mktemp("kernel")
    source = folder / "kernel.cpp"
    source.write_text(HOST_CUDA + SOURCE + append_kv.SOURCE + SET)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", source, "-o", folder / "kernel.so"], check=True)
    return ctypes.CDLL(str(folder / "kernel.so"))


def a_step(draw, B, L, records):
    """Outputs of some diffusion step and the loop's variables before it."""
    masked = draw.integers(0, L + 1, B)
    if draw.random() < 0.3:
        masked[:] = 0
    step = int(draw.integers(0, L))
    return {
        "next_ids": draw.integers(0, 99, (B, L)).astype(np.int32),
        "predicted_ids": draw.integers(0, 99, (B, L)).astype(np.int32),
        "confidence": np.where(draw.random((B, L)) < 0.2, np.inf, draw.random((B, L))).astype(np.float32),
        "masked_count": masked.astype(np.int32),
        "block_ids": np.full((B, L), 3, np.int32),
        "t": np.ones(B, np.float32),
        "step": np.full(B, step, np.int32),
        "steps_left": np.full(B, draw.integers(1, L + 2), np.int32),
        "records": records,
    }


@pytest.mark.parametrize(("B", "L"), [(1, 1), (1, 16), (3, 5), (8, 16), (2, 300)])
def test_the_kernel_equals_its_reference(host_kernel, B, L):
    draw = np.random.default_rng(B * L)
    goes_on = set()
    for _ in range(20):
        want = a_step(draw, B, L, np.full((L, record_words(B, L)), -1, np.int32))
        got = {name: array.copy() for name, array in want.items()}
        expected = update(**want)
        goes_on.add(expected)
        read, written = list(got)[:4], list(got)[4:]
        pointers = {name: ctypes.c_void_p(array.ctypes.data) for name, array in got.items()}
        host_kernel.ttc_block_update(
            *(pointers[name] for name in read),
            ctypes.c_int(B),
            ctypes.c_int(L),
            ctypes.c_ulonglong(77),
            *(pointers[name] for name in written),
        )
        for name, array in want.items():
            assert got[name].tobytes() == array.tobytes(), name
        assert host_kernel.taken_condition() == int(expected)
    assert goes_on == ({True, False} if L > 1 else {False})


def test_outside_a_loop_no_condition_is_set(host_kernel):
    values = a_step(np.random.default_rng(1), 1, 4, np.zeros((4, record_words(1, 4)), np.int32))
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in values.values()]
    host_kernel.ttc_block_update(
        *pointers[:4], ctypes.c_int(1), ctypes.c_int(4), ctypes.c_ulonglong(0), *pointers[4:]
    )
    assert host_kernel.taken_condition() == -1


def test_a_record_gives_back_the_step():
    values = a_step(np.random.default_rng(2), 3, 5, np.zeros((5, record_words(3, 5)), np.int32))
    values["step"][:] = 2
    update(**values)
    outputs = read_record(values["records"][2], 3, 5)
    np.testing.assert_array_equal(outputs.next_block_ids, values["next_ids"])
    np.testing.assert_array_equal(outputs.predicted_ids, values["predicted_ids"])
    np.testing.assert_array_equal(outputs.confidence, values["confidence"])
    np.testing.assert_array_equal(outputs.masked_count, values["masked_count"])


@pytest.mark.parametrize(("B", "H", "L", "P", "dtype"), [(1, 1, 1, 1, "float16"), (3, 2, 5, 6, "float32")])
def test_new_kv_lands_where_the_reference_puts_it(host_kernel, B, H, L, P, dtype):
    draw, C, count = np.random.default_rng(L), 9, 4
    new_kv = draw.standard_normal((count, B, H, L, P)).astype(dtype)
    lengths = np.array([C - L, 0, C - 1][:B], np.int32)  # the last row has no room for all of its tokens
    want = draw.standard_normal((count, B, H, C, P)).astype(dtype)
    got, before = want.copy(), want.copy()
    append_kv.append_kv(new_kv, lengths, want)
    words = new_kv.dtype.itemsize * P // 2
    sizes = [ctypes.c_int(size) for size in (H, L, C, words)]
    apart = [ctypes.c_longlong(a.nbytes // count // 2) for a in (new_kv, got)]
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (new_kv, lengths, got)]
    for cache in range(count):
        for row in range(B * H * L):
            host_kernel.set_program(row, cache)
            host_kernel.ttc_write_cache_rows(*pointers[:2], *sizes, *apart, pointers[2])
    assert got.tobytes() == want.tobytes()
    assert (want != before).sum() == count * H * P * sum(min(L, C - n) for n in lengths.tolist())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", [block_loop, append_kv], ids=["loop", "append"])
def test_ptx_assembles(tmp_path, target, kernel):
    load_nvrtc()
    ptx = compile_ptx(kernel.KERNEL, kernel.SOURCE, target)
    if kernel is block_loop:
        assert b".extern .func cudaGraphSetConditional" in ptx, "the driver puts that in"
    (tmp_path / "k.ptx").write_bytes(ptx)
    tool = ptxas(blackwell=float(target) >= 10)
    architecture = f"-arch=sm_{target.replace('.', '')}"
    done = subprocess.run(
        [tool, architecture, "-c", tmp_path / "k.ptx", "-o", tmp_path / "k.o", "-v"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "0 bytes spill stores" in done.stderr


@pytest.mark.parametrize("kernel", [block_loop, append_kv], ids=["loop", "append"])
def test_machine_code_for_a_driver_that_refuses_the_ptx(kernel):
    load_nvrtc()
    code = compile_cubin(kernel.KERNEL, kernel.SOURCE, "9.0")
    assert is_cubin(code)
    assert kernel.KERNEL.encode() in code
    assert not is_cubin(compile_ptx(kernel.KERNEL, kernel.SOURCE, "9.0"))


@pytest.mark.parametrize("target", TARGETS)
def test_the_kernel_that_does_nothing_assembles(tmp_path, target):
    (tmp_path / "k.ptx").write_bytes(NOTHING_PTX)
    architecture = f"-arch=sm_{target.replace('.', '')}"
    tool = ptxas(blackwell=float(target) >= 10)
    done = subprocess.run(
        [tool, architecture, tmp_path / "k.ptx", "-o", tmp_path / "k.o"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_kernel_that_does_not_compile():
    load_nvrtc()
    with pytest.raises(BackendError, match=r"kernel broken does not compile for 9\.0: .*error"):
        compile_ptx("broken", "nonsense(", "9.0")
