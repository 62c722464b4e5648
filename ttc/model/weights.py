"""Which tensors a TwoTower checkpoint must hold, and what each graph weight is made of.

The experts of a layer may be stored one by one (`experts.{e}.up_proj.weight`) or stacked (`experts.up_proj`,
with or without `.weight`); the graphs always take the stack.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ttc.errors import CheckpointError
from ttc.formats.shard import TensorInfo
from ttc.formats.strictjson import quoted
from ttc.model.config import TIME_FEATURES, LayerKind, ModelConfig

__all__ = ["TOWERS", "Shape", "WeightSource", "expected_tensors", "first_of", "match_weights"]

Shape = tuple[int, ...]

TOWERS = ("context_tower", "denoiser_tower")

# float8 is left out: it means nothing without scales, which this layout has no place for.
_FLOATING = ("float16", "bfloat16", "float32", "float64")

# What tells one expert's tensor from the stack of all of them.
_EXPERT = re.compile(r"\.mixer\.experts\.\d+\.")


@dataclass(frozen=True, slots=True)
class WeightSource:
    """What one graph weight is made of.

    `stacked`: `tensors` are stacked along a new first axis, in this order; otherwise there is exactly one
    and it is taken as it is. `shape` is the graph weight's, `dtype` the stored one (the same for all
    `tensors`).
    """

    tensors: tuple[str, ...]
    stacked: bool
    shape: Shape
    dtype: str


def expected_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Name → shape of every tensor of a checkpoint whose experts are stored one by one."""
    head = (config.vocab_size, config.hidden_size)
    expected = _tower(config, "context_tower") | {"context_lm_head.weight": head}
    expected |= _tower(config, "denoiser_tower") | {"lm_head.weight": head}
    hidden = config.hidden_size
    expected |= {
        "t_embedder.mlp.0.weight": (hidden, TIME_FEATURES),
        "t_embedder.mlp.0.bias": (hidden,),
        "t_embedder.mlp.2.weight": (hidden, hidden),
        "t_embedder.mlp.2.bias": (hidden,),
        "t_block.1.weight": (3 * hidden, hidden),
        "t_block.1.bias": (3 * hidden,),
    }
    return expected | {f"scale_shift_tables.{index}": (3, hidden) for index in range(config.num_layers)}


def match_weights(
    config: ModelConfig, stored: Mapping[str, TensorInfo], misplaced: list[str], where: str
) -> dict[str, WeightSource]:
    """Every graph weight with its source, context tower first.

    `misplaced` describes what the index got wrong, `where` is the checkpoint's name in messages. One
    `CheckpointError` tells all differences: how many tensors are missing, unexpected, misshapen, of a wrong
    dtype or misplaced, and the first five of each.
    """
    singles = expected_tensors(config)
    members: dict[str, list[str]] = {}
    for name in singles:
        members.setdefault(_EXPERT.sub(".mixer.experts.", name), []).append(name)

    expected: dict[str, Shape] = {}
    sources: dict[str, tuple[tuple[str, ...], bool, Shape]] = {}
    for weight, names in members.items():
        stacked = names != [weight]
        shape = ((len(names),) if stacked else ()) + singles[names[0]]
        whole = [name for name in (weight, weight.removesuffix(".weight")) if stacked and name in stored]
        if whole:
            expected[whole[0]] = shape
            sources[weight] = ((whole[0],), False, shape)
        else:
            expected |= {name: singles[name] for name in names}
            sources[weight] = (tuple(names), stacked, shape)

    _refuse_differences(expected, stored, sources, misplaced, where)
    return {
        weight: WeightSource(names, stacked, shape, stored[names[0]].dtype)
        for weight, (names, stacked, shape) in sources.items()
    }


def _refuse_differences(
    expected: Mapping[str, Shape],
    stored: Mapping[str, TensorInfo],
    sources: Mapping[str, tuple[tuple[str, ...], bool, Shape]],
    misplaced: list[str],
    where: str,
) -> None:
    both = [name for name in expected if name in stored]
    defects = {
        "missing": [name for name in expected if name not in stored],
        "unexpected": [name for name in stored if name not in expected],
        "misshapen": [
            f"{name} {list(stored[name].shape)} instead of {list(expected[name])}"
            for name in both
            if stored[name].shape != expected[name]
        ],
        "of a dtype that is not floating (or needs scales)": [
            f"{name} ({stored[name].dtype})" for name in both if stored[name].dtype not in _FLOATING
        ],
        "expert stacks of mixed dtypes": [
            weight
            for weight, (names, _, _) in sources.items()
            if len({stored[name].dtype for name in names if name in stored}) > 1
        ],
        "not where the index says": misplaced,
    }
    found = [f"{len(names)} {what}: {first_of(names)}" for what, names in defects.items() if names]
    if found:
        raise CheckpointError(f"{where}: its tensors do not fit its config.json; " + "; ".join(found))


def first_of(names: list[str], count: int = 5) -> str:
    """The first `count` of `names` for a message, and how many more there are."""
    shortened = [name if len(name) <= 160 and name.isprintable() else quoted(name) for name in names[:count]]
    return ", ".join(shortened) + (f", and {len(names) - count} more" if len(names) > count else "")


def _tower(config: ModelConfig, tower: str) -> dict[str, Shape]:
    hidden = config.hidden_size
    expected: dict[str, Shape] = {f"{tower}.embeddings.weight": (config.vocab_size, hidden)}
    for index, kind in enumerate(config.layers):
        layer = f"{tower}.layers.{index}"
        expected[f"{layer}.norm.weight"] = (hidden,)
        expected |= {f"{layer}.mixer.{name}": shape for name, shape in _mixer(config, kind).items()}
    return expected | {f"{tower}.norm_f.weight": (hidden,)}


def _mixer(config: ModelConfig, kind: LayerKind) -> dict[str, Shape]:
    hidden, heads = config.hidden_size, config.mamba_num_heads
    if kind == LayerKind.MAMBA:
        return {
            "in_proj.weight": (config.in_proj_dim, hidden),
            "conv1d.weight": (config.conv_dim, 1, config.conv_kernel),
            "conv1d.bias": (config.conv_dim,),
            "A_log": (heads,),
            "D": (heads,),
            "dt_bias": (heads,),
            "norm.weight": (config.d_inner,),
            "out_proj.weight": (hidden, config.d_inner),
        }
    if kind == LayerKind.ATTENTION:
        return {
            "q_proj.weight": (config.query_dim, hidden),
            "k_proj.weight": (config.key_value_dim, hidden),
            "v_proj.weight": (config.key_value_dim, hidden),
            "o_proj.weight": (hidden, config.query_dim),
        }
    if kind == LayerKind.MOE:
        experts, shared = config.n_routed_experts, config.moe_shared_expert_intermediate_size
        mixer: dict[str, Shape] = {
            "gate.weight": (experts, hidden),
            "gate.e_score_correction_bias": (experts,),
        }
        for expert in range(experts):
            mixer[f"experts.{expert}.up_proj.weight"] = (config.moe_intermediate_size, hidden)
            mixer[f"experts.{expert}.down_proj.weight"] = (hidden, config.moe_intermediate_size)
        return mixer | {
            "shared_experts.up_proj.weight": (shared, hidden),
            "shared_experts.down_proj.weight": (hidden, shared),
        }
    return {
        "up_proj.weight": (config.intermediate_size, hidden),
        "down_proj.weight": (hidden, config.intermediate_size),
    }
