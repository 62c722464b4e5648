"""Before and while weights are loaded: does it fit, how they get onto the device, which packages are there;
and the arguments that kernels are launched with.
"""

from math import prod
from pathlib import Path

import numpy as np
import pytest

from tests.support.fake_device import FakeDevice
from tests.support.golden import golden
from ttc.base.dtypes import numpy_dtype
from ttc.errors import BackendError, BundleError, DeviceMemoryError
from ttc.formats.manifest import ShardRecord, WeightMap, WeightSpec
from ttc.formats.program import OP, Instruction
from ttc.formats.shard import Shard
from ttc.formats.weights import ReferencedWeights
from ttc.model.bundle import Bundle
from ttc.model.config import LayerKind, ModelConfig
from ttc.model.weights import CONTEXT, joined_projections
from ttc.planning.models import released_config
from ttc.runtime.gpu.device import Scope
from ttc.runtime.gpu.executor import cache_specs, mamba_specs, new_kv_specs
from ttc.runtime.gpu.memory import RESERVED_BYTES, Gpu, Need, need_of, plan_memory, row_bytes
from ttc.runtime.gpu.ptx_ops import PtxOps
from ttc.runtime.gpu.weights import upload_weights, weight_bytes

GB = 10**9
ROOT = Path(__file__).parents[3]
TOWERS = {"context": 63 * GB, "denoiser": 63 * GB}


def need(batch=1, row=GB):
    return Need(TOWERS, row, 0, batch, 4096)


def test_what_fits_says_nothing():
    plan = plan_memory(need(), [Gpu("cuda:0", 141 * GB)])
    assert plan.fits
    assert plan.advice == ()
    plan.check()


def test_too_large_a_batch():
    plan = plan_memory(need(batch=64), [Gpu("cuda:0", 141 * GB)])
    fitting = (141 * GB - 126 * GB - RESERVED_BYTES) // GB
    assert plan.advice == (f"a batch of {fitting} at this capacity",)
    assert plan_memory(need(batch=fitting), [Gpu("cuda:0", 141 * GB)]).fits, "the advice is good"
    with pytest.raises(DeviceMemoryError, match=r"64 rows at capacity 4096 64\.0 GB.*a batch of 13"):
        plan.check()


def test_towers_that_need_a_gpu_each():
    one = plan_memory(need(), [Gpu("cuda:0", 80 * GB)])
    assert any(line.startswith("two GPUs with 65.1 GB free each, one per tower") for line in one.advice)
    two = plan_memory(need(), [Gpu("cuda:0", 80 * GB), Gpu("cuda:1", 80 * GB)])
    assert any("cuda:0 and cuda:1 have it" in line for line in two.advice)
    assert any(line == "one GPU with 128.1 GB free" for line in two.advice)


def test_weights_inside_the_engines_are_no_tower():
    plan = plan_memory(Need({}, GB, 126 * GB, 1, 4096), [Gpu("cuda:0", 80 * GB)])
    with pytest.raises(DeviceMemoryError, match=r"weights in the engines; .*one GPU with 128\.1 GB free"):
        plan.check()


def test_bytes_of_a_row(bundles):
    with Bundle.open(bundles("tiny_a")) as bundle:
        config = bundle.config
    small, large = (row_bytes(config, "float32", capacity, 8, in_place=True) for capacity in (64, 128))
    caches = 2 * config.layers.count(LayerKind.ATTENTION) * config.num_key_value_heads * config.head_dim * 4
    assert large - small == 64 * caches
    beside = row_bytes(config, "float32", 128, 8, in_place=False) - large
    assert beside > 8 * caches, "a second Mamba state, and the keys and values of a block"
    assert row_bytes(config, "float32", 4096, 8, in_place=False) - large == beside + (4096 - 128) * caches


def test_bytes_of_a_context_call_at_the_real_size():
    """Those of docs/gpu.md."""
    config = ModelConfig.from_hf(released_config())
    mamba, caches, moved = (
        sum(prod(shape) * numpy_dtype(dtype).itemsize for dtype, shape in specs.values())
        for specs in (
            mamba_specs(config, "bfloat16", 1),
            cache_specs(config, "bfloat16", 1, 8192),
            new_kv_specs(config, "bfloat16", 1, 16),
        )
    )
    said = (ROOT / "docs" / "gpu.md").read_text()
    for text in (f"| {mamba / 2**20:.1f} MiB, {moved // 1024} KiB |", f"{caches // 2**20} MiB at C = 8192"):
        assert text in said


@pytest.mark.parametrize("staging_bytes", [64, 1000, 2**20])
def test_weights_arrive_as_they_are_read(bundles, staging_bytes):
    device = FakeDevice()
    scope = Scope(device)
    with Bundle.open(bundles("tiny_a")) as bundle:
        names = [name for name in bundle.weights if "layers.0." in name or "layers.1." in name]
        arrays = upload_weights(bundle, names, scope, None, staging_bytes)
        for name in names:
            np.testing.assert_array_equal(device.values(arrays[name]), bundle.read_weight(name), err_msg=name)
        assert weight_bytes(bundle, names) == sum(array.nbytes for array in arrays.values())
    scope.close()
    assert not device.blocks


@pytest.mark.parametrize("staging_bytes", [64, 2**20])
def test_weights_are_prepared_on_the_way(bundles, staging_bytes):
    device = FakeDevice()
    scope = Scope(device)
    with Bundle.open(bundles("tiny_a", "float16")) as bundle:
        norm = next(name for name in bundle.weights if name.endswith("layers.0.norm.weight"))
        names = ["lm_head.weight|transpose(1,0)", f"{norm}|float32", norm]
        arrays = upload_weights(bundle, names, scope, None, staging_bytes)
        head, plain = bundle.read_weight("lm_head.weight"), bundle.read_weight(norm)
        due = [head.T, plain.astype(np.float32), plain]
        for name, array in zip(names, due, strict=True):
            np.testing.assert_array_equal(device.values(arrays[name]), array, err_msg=name)
            assert device.values(arrays[name]).dtype == array.dtype
        assert weight_bytes(bundle, names) == sum(array.nbytes for array in due)
        due_memory = need_of(bundle, names, batch=1, capacity=64, block=8, in_place=True)
        assert sum(due_memory.weights.values()) == weight_bytes(bundle, names)
        with pytest.raises(BundleError, match="no weight 'gone', which the engines take"):
            weight_bytes(bundle, ["gone|transpose(1,0)"])
    scope.close()
    assert not device.blocks


def test_projections_lie_together(bundles):
    """One matrix, and its parts in the same memory: nothing is there twice."""
    device = FakeDevice()
    scope = Scope(device)
    with Bundle.open(bundles("tiny_a")) as bundle:
        joined = joined_projections(bundle.config, CONTEXT)
        assert joined
        names = [name for name in bundle.weights if ".mixer." in name and name.startswith(CONTEXT)]
        arrays = upload_weights(bundle, names, scope, together=joined)
        for whole, parts in joined.items():
            want = np.concatenate([bundle.read_weight(name) for name in parts])
            np.testing.assert_array_equal(device.values(arrays[whole]), want, err_msg=whole)
            assert {arrays[name].memory.address for name in parts} == {arrays[whole].memory.address}
        for name in names:
            np.testing.assert_array_equal(device.values(arrays[name]), bundle.read_weight(name), err_msg=name)
        assert sum(block.nbytes for block in device.blocks.values()) < 1.1 * weight_bytes(bundle, names)
    scope.close()


def test_a_stack_of_experts_comes_expert_by_expert():
    """By reference: the parts of a stacked weight are the checkpoint's own tensors, never the stack."""
    root = golden("tiny_a").folder
    shards = {path.name: Shard.open(path) for path in root.glob("*.safetensors") if path.stem != "vectors"}
    names = sorted(name for shard in shards.values() for name in shard.tensors)
    up = [name for name in names if name.startswith("context_tower.") and name.endswith("up_proj.weight")]
    experts = [name for name in up if ".experts." in name]
    layer = experts[0].split(".experts.")[0]
    own = tuple(sorted((n for n in experts if n.startswith(layer)), key=lambda n: int(n.split(".")[-3])))
    info = next(shard.tensors[own[0]] for shard in shards.values() if own[0] in shard.tensors)
    for dtype in (info.dtype, "float16"):
        spec = WeightSpec("w", own, True, (len(own), *info.shape), dtype, ("context",))
        records = {name: ShardRecord.of(shard) for name, shard in shards.items()}
        weights = ReferencedWeights(WeightMap("reference", {"w": spec}, str(root), records), None, "test")
        parts, whole = list(weights.parts(spec)), weights.read(spec)
        assert len(parts) == len(own) > 1
        np.testing.assert_array_equal(np.stack(parts), whole)
        assert parts[0].dtype == whole.dtype
        # Stored as it is wanted, a part is a view of the mapped file.
        assert parts[0].flags.owndata == (dtype == "float16")
        weights.close()


def test_out_of_memory_while_loading_gives_everything_back(bundles):
    with Bundle.open(bundles("tiny_a")) as bundle:
        device = FakeDevice(total=weight_bytes(bundle, bundle.weights) // 2)
        scope = Scope(device)
        with pytest.raises(DeviceMemoryError):
            upload_weights(bundle, bundle.weights, scope)
        scope.close()
    assert not device.blocks


@pytest.mark.parametrize(
    ("triton", "cuda_core", "resident", "problem", "notes"),
    [
        (True, True, True, False, []),
        (False, True, True, True, ["triton is not installed"]),
        (True, False, False, False, ["cuda-core is not installed"]),
        (False, False, False, True, ["triton is not installed", "cuda-core is not installed"]),
    ],
)
def test_torch_on_cuda_takes_what_is_there(triton, cuda_core, resident, problem, notes):
    from ttc.runtime.backends.torch.load import cuda_features

    features = cuda_features(triton, cuda_core)
    assert (features.kernels, features.resident) == (triton, resident)
    assert (features.capture_problem is not None) == problem
    assert len(features.notes) == len(notes)
    assert all(note in said for note, said in zip(notes, features.notes, strict=True))


def conv_step(scope, **changes):
    """A `MambaConv` over B = 2, L = 5, F = 12 with width 4."""
    shapes = {
        "xbc": ("float32", (2, 5, 12)),
        "conv_state": ("float32", (2, 12, 3)),
        "weight": ("float32", (12, 1, 4)),
        "bias": ("float32", (12,)),
    } | changes
    inputs = [scope.array(*spec) for spec in shapes.values()]
    return (
        Instruction(OP, "MambaConv", tuple(shapes), ("y",), {"W": 4}),
        inputs,
        [scope.array("float32", (2, 5, 12))],
    )


def test_a_kernel_gets_what_its_launch_says():
    pytest.importorskip("triton", reason="triton is not installed")
    from ttc.plugins.kernels import KERNELS
    from ttc.plugins.launch import Problem
    from ttc.plugins.ptx import CompiledKernel

    seen, compiled = [], []
    device = FakeDevice({"conv": lambda device, *arguments: seen.append(arguments)})
    scope = Scope(device)

    def compile_launch(launch, target):
        compiled.append((launch.op, target))
        return CompiledKernel("conv", "ptx", target, launch.tile.num_warps, 0)

    ops = PtxOps(device, "float32", compile_launch)
    step, inputs, outputs = conv_step(scope)
    launched = []
    real = device.launch
    device.launch = lambda kernel, *rest: launched.append(rest) or real(kernel, *rest)
    for _ in range(2):
        ops(scope, step, inputs, outputs)()
    assert compiled == [("MambaConv", "9.0")], "compiled once"
    spec = KERNELS["MambaConv"]
    dims = spec.op.dims([array.shape for array in inputs], {"W": 4})
    launch = spec.bind(Problem(dims, {"W": 4}, "float32"), spec.select_tile(dims))
    addresses = [array.address for array in inputs]
    assert list(seen[0]) == [*addresses, *launch.integer_values(dims), outputs[0].address]
    grid, threads, shared, _ = launched[0]
    assert (tuple(grid), threads, shared) == (launch.programs(dims), 32 * launch.tile.num_warps, 0)


def test_a_kernel_is_not_given_another_dtype():
    pytest.importorskip("triton", reason="triton is not installed")
    scope = Scope(FakeDevice())
    step, inputs, outputs = conv_step(scope, bias=("float16", (12,)))
    with pytest.raises(BackendError, match="MambaConv is given float16 where its kernel takes float32"):
        PtxOps(scope.device, "float32", lambda launch, target: None)(scope, step, inputs, outputs)


def test_an_op_without_a_kernel():
    pytest.importorskip("triton", reason="triton is not installed")
    scope = Scope(FakeDevice())
    with pytest.raises(
        BackendError, match="no kernel for the op Nobody; build the engines with --form whole"
    ):
        PtxOps(scope.device, "float32")(scope, Instruction(OP, "Nobody", (), (), {}), [], [])


def test_a_kernel_that_does_not_compile_is_named():
    pytest.importorskip("triton", reason="triton is not installed")
    scope = Scope(FakeDevice())
    step, inputs, outputs = conv_step(scope)

    def refuse(launch, target):
        raise BackendError(f"Triton could not compile the kernel of {launch.op} for {target}")

    with pytest.raises(BackendError, match=r"could not compile the kernel of MambaConv for 9\.0"):
        PtxOps(scope.device, "float32", refuse)(scope, step, inputs, outputs)
