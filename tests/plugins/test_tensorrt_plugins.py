"""Our plugins under NVIDIA's own Python code (TensorRT 11.4), against what the torch launcher would do."""

import pytest
import torch

from tests.support.tensorrt_stubs import make_stubs, run_with_tensorrt
from ttc.base.dims import sizes_of
from ttc.plugins.costs import GROUPS
from ttc.plugins.kernels import KERNELS
from ttc.plugins.launch import Problem
from ttc.plugins.ops import CHOICES, with_group_scale
from ttc.plugins.table import LAUNCHED_OPS, OPS_BY_NAME

SIZES = {"B": 2, "L": 17, "T": 5, "D": 32, "I": 64, "E": 8, "K": 2, "V": 40}
SIZES |= {"H": 4, "P": 4, "N": 3, "F": 28, "G": 2, "W": 4, "M": 16, "S": 24}
SIZES |= {"Q": 32, "A": 4, "J": 2, "Y": 8, "C": 48, "R": 5, "U": 7, "Z": 16, "O": 3, "X": 2}
ATTRIBUTES = {"K": 2, "n_group": 2, "topk_group": 1, "norm_topk_prob": 1, "routed_scaling_factor": 2.5}
ATTRIBUTES |= {"G": 2, "W": 4, "mask_id": 3, "epsilon": 1e-5, "causal": 1, "X": 2, "A": 4}
CHANGING = ["B", "L", "T", "C", "R", "U", "O"]
PLUGINS = [op for op in LAUNCHED_OPS if not op.in_place]


def case(op, number=0, dynamic=CHANGING, stored=None, tokens=SIZES["T"], **changes):
    """What TensorRT would have to know to build one plugin; the dtype and the tactic go around."""
    compute = ("float32", "float16", "bfloat16")[number % 3]
    word = next((t.dtype for t in op.inputs if t.dtype in ("stored8", "stored4")), None)
    stored = CHOICES[word][0] if word and stored is None else stored
    words = with_group_scale({"compute": compute} | ({word: stored} if word else {}))
    sizes = SIZES | {f"{inner}B": SIZES[inner] // GROUPS.get(stored, 16) for inner in "DI"}
    return {
        "op": op.name,
        "stored": stored,
        "attributes": {name: ATTRIBUTES[name] for name in op.attributes},
        "shapes": [list(sizes_of(spec.shape, sizes | {"T": tokens})) for spec in op.inputs],
        "dtypes": [spec.dtype_in(words) for spec in op.inputs],
        "dynamic": dynamic,
        "tactic": 1 + number % len(KERNELS[op.name].tiles),
        **changes,
    }


CASES = [case(op, number) for number, op in enumerate(PLUGINS)]
# The other dtype that weights may be stored in.
CASES += [
    case(OPS_BY_NAME[name], number, stored=stored)
    for number, (name, stored) in enumerate(
        [
            ("MoeUpScaled", "float8_e4m3fn"),
            ("MoeDownScaled", "float8_e4m3fn"),
            ("MoeUpBlocked", "int4"),
            ("MoeDownBlocked", "int4"),
        ]
    )
]
MANY_TOKENS = [case(OPS_BY_NAME["MoeUp"], tokens=400)]
CASES += MANY_TOKENS
# A network without dynamic dimensions gives plain numbers where there were symbols.
FIXED = [case(op, 2, dynamic=[]) for op in PLUGINS if op.name in ("MoeUp", "MambaScan")]


@pytest.fixture(scope="session")
def nvidia(tmp_path_factory):
    """What NVIDIA's code got from our plugins."""
    (up,) = (op for op in PLUGINS if op.name == "MoeUp")
    refused = [case(up, tactic=9), case(up, dynamic=["T", "D"]), case(up, dtypes=["int32"] * 5)]
    stubs = make_stubs(tmp_path_factory.mktemp("tensorrt_stubs"))
    code = "from tests.support.tensorrt_plugins import main\nmain()"
    return run_with_tensorrt(stubs, code, {"cases": CASES + FIXED, "refused": refused})


def test_every_primitive_op_is_a_plugin(nvidia):
    """But the one that writes into its inputs."""
    assert nvidia["registered"] == sorted(op.name for op in PLUGINS)
    assert KERNELS.keys() - set(nvidia["registered"]) == {"PageWrite"}


@pytest.mark.parametrize("number", range(len(CASES + FIXED)), ids=lambda n: (CASES + FIXED)[n]["op"])
def test_plugin_does_what_the_launcher_does(nvidia, number):
    asked, got = (CASES + FIXED)[number], nvidia["cases"][number]
    spec = KERNELS[asked["op"]]
    dims = spec.op.dims(asked["shapes"], asked["attributes"])
    words = spec.op.words(asked["dtypes"])
    problem = Problem(dims, asked["attributes"], words["compute"], stored=asked["stored"], target="9.0")
    launch = spec.bind(problem, asked["tactic"] - 1)
    assert got["outputs"] == spec.op.output_shapes(asked["shapes"], asked["attributes"])
    assert got["dtypes"] == list(launch.outputs)
    computes = any(tensor.dtype == "compute" for tensor in spec.op.inputs)
    assert got["num_combinations"] == (3 if computes else 1) * (2 if asked["stored"] else 1)
    assert list(launch.inputs) == asked["dtypes"], "and the list has these among them"
    assert asked["dtypes"] in got["combinations"]
    one = [1 + spec.select_tile(dims)]
    assert got["tactics"] == (one if spec.work_in_values else list(range(1, len(spec.tiles) + 1)))
    x, y, z = launch.programs(dims)
    assert [got["launch"][f"grid_{axis}"] for axis in "xyz"] == [x, y, z]
    threads = [got["launch"][f"block_{axis}"] for axis in "xyz"]
    assert threads == [32 * launch.tile.num_warps, 1, 1]
    assert got["integers"] == list(launch.integer_values(dims))
    assert got["launch"]["shared_mem"] <= 48 * 1024


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: CASES[n]["op"])
def test_kernel_takes_what_tensorrt_passes(nvidia, number):
    """(inputs …, int32 …, outputs …) and nothing after them."""
    got, spec = nvidia["cases"][number], KERNELS[CASES[number]["op"]]
    head = got["ptx"].split(f".entry {got['kernel']}(", 1)[1].split(")", 1)[0]
    kinds = ["u32" if ".u32" in line else "u64" for line in head.strip().split(",\n")]
    inputs, outputs = ["u64"] * len(spec.op.inputs), ["u64"] * len(spec.op.outputs)
    assert kinds == inputs + ["u32"] * len(spec.integers) + outputs
    assert f".reqntid {got['launch']['block_x']}" in got["ptx"]


def test_one_tactic_where_the_work_lies_in_the_values(nvidia):
    """What the builder fills the inputs with is not routing, so it would measure another work, or none."""
    few, many = (
        nvidia["cases"][CASES.index(asked)]["tactics"]
        for asked in (next(case for case in CASES if case["op"] == "MoeUp"), *MANY_TOKENS)
    )
    assert (few, many) == ([1], [6]), "few rows an expert, and many; wide tiles are no tactics"
    assert {name for name, spec in KERNELS.items() if spec.work_in_values} == {
        "MoeUp",
        "MoeDown",
        "MoeUpScaled",
        "MoeDownScaled",
        "MoeUpBlocked",
        "MoeDownBlocked",
        "BlockAttention",
        "CacheSplits",
        "AttentionMerge",
        "PagedAttention",
        "PageSplits",
        "DiffusionPredict",
        "SplitPredict",
    }


def test_what_is_refused(nvidia):
    tactic, dynamic, dtype = nvidia["refusals"]
    assert "tactic 9 does not exist; there are 1 to 7" in tactic
    assert "dimensions D are dynamic in the network; only T may be" in dynamic
    assert "x is int32, expected one of float32, float16, bfloat16" in dtype
    assert "registered in this process already" in nvidia["twice"]


def test_the_symbols_are_needed():
    """The grids that are compared do depend on the dynamic dimensions."""
    for name in ("MoeUp", "MoeCombine", "MambaConv", "MambaScan", "DiffusionPredict"):
        spec = KERNELS[name]
        dims = SIZES | {"mask_id": 3}
        launch = spec.bind(Problem(dims, ATTRIBUTES, "float32"))
        larger = dims | {letter: 40 * dims[letter] for letter in CHANGING}
        assert launch.programs(dims) != launch.programs(larger)


def test_dtypes_exist_in_torch():
    """The same names everywhere: signature, torch, TensorRT's table."""
    for spec in KERNELS.values():
        for tensor in (*spec.op.inputs, *spec.op.outputs):
            known = tensor.dtype in (*CHOICES, "group_scale")
            assert known or isinstance(getattr(torch, tensor.dtype), torch.dtype)
