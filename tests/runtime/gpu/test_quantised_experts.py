"""Bundles with quantised experts on a fake device: bytes go up as they are stored, and the ops take them."""

import pytest

import ttc
from tests.support.fake_device import FakeDevice, no_compiler
from tests.support.quantised import CHECKPOINTS, expected
from ttc.formats.program import OP, Instruction
from ttc.model.bundle import Bundle
from ttc.plugins.naive import run_naive
from ttc.runtime.backends.torch.executor import TorchExecutor, view_of
from ttc.runtime.engine import Engine
from ttc.runtime.gpu.device import Scope
from ttc.runtime.gpu.pooled_backend import PooledBackend
from ttc.runtime.gpu.ptx_ops import PtxOps
from ttc.runtime.gpu.weights import upload_weights, weight_bytes

OPTIONS = ("max_new_tokens", "block_size", "steps", "threshold")
QUANTISED_OPS = {"tiny_fp8": "MoeUpScaled", "tiny_nvfp4": "MoeUpBlocked"}


def check_tokens(engine, name):
    """The first prompt's tokens are those of ModelOpt's own decoding."""
    (prompt, *_) = expected()[name]["prompts"]
    for mode in ("ar", "diffusion"):
        due = prompt[mode]
        options = {
            key: due[key] for key in ("max_new_tokens", "block_size", "steps", "threshold") if key in due
        }
        result = engine.generate(
            prompt["prompt_ids"], mode=mode, stop_at_eos=False, temperature=0.0, **options
        )
        assert list(result.token_ids) == due["tokens"], mode


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_torch_on_a_device(bundles, fake_device, name):
    called = []

    def run_op(op, *inputs, **attributes):
        called.append(op.name)
        return run_naive(op, *inputs, **attributes)

    with Bundle.open(bundles(f"quantised/{name}")) as bundle:
        scope = Scope(fake_device)
        arrays = upload_weights(bundle, list(bundle.weights), scope)
        assert sum(array.nbytes for array in arrays.values()) == weight_bytes(bundle, bundle.weights)
        codes = [array for array in arrays.values() if array.dtype in ("float8_e4m3fn", "float4_e2m1fn")]
        assert len(codes) > 4
        tensors = {weight: view_of(fake_device, array) for weight, array in arrays.items()}
        executor = TorchExecutor(
            bundle.config, fake_device, tensors, "float32", run_op, None, weight_scope=scope
        )
        with Engine(PooledBackend(bundle.config, fake_device, executor, None, [no_compiler])) as engine:
            check_tokens(engine, name)
    assert {QUANTISED_OPS[name], "MoeUp"} <= set(called), "a layer of each tower may be plain"


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_cut_engines_on_a_device(bundles, engine_folders, fake_gpu, name):
    bundle = f"quantised/{name}"
    with ttc.load(bundles(bundle), "tensorrt-rtx", engines=engine_folders(bundle, "cut")) as engine:
        check_tokens(engine, name)
    assert not fake_gpu.blocks, "closing gives all memory back"


def test_a_kernel_is_compiled_for_what_is_stored():
    """Once for each format, on each target with what it can do."""
    pytest.importorskip("triton", reason="triton is not installed")
    from ttc.plugins.ptx import CompiledKernel

    compiled = []

    def compile_launch(launch, target):
        compiled.append((launch.inputs[1], launch.constants["FORMAT"], launch.constants["NATIVE"]))
        return CompiledKernel("product", "ptx", target, launch.tile.num_warps, 0)

    for capability in ("8.0", "9.0"):
        device = FakeDevice({"product": lambda device, *arguments: None})
        device.compute_capability = capability
        scope = Scope(device)
        ops = PtxOps(device, "bfloat16", compile_launch)
        for stored in ("int8", "float8_e4m3fn", "float8_e4m3fn"):
            shapes = [
                ("bfloat16", (6, 32)),
                (stored, (4, 64, 32)),
                ("float32", (4, 64)),
                ("int32", (6, 2)),
                ("int32", (12,)),
                ("int32", (5,)),
            ]
            inputs = [scope.array(dtype, shape) for dtype, shape in shapes]
            step = Instruction(OP, "MoeUpScaled", (), (), {})
            ops(scope, step, inputs, [scope.array("bfloat16", (12, 64))])()
        scope.close()
    assert compiled == [
        ("int8", "int8", False),
        ("float8_e4m3fn", "float8_e4m3fn", False),
        ("int8", "int8", True),
        ("float8_e4m3fn", "float8_e4m3fn", True),
    ]
