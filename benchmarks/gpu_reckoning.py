"""What the GPU benchmark reckons with: bytes that must move, steps per block, what fits, goals.

Plain numbers only, so that all of it is tested without a GPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.base.dtypes import numpy_dtype
from ttc.model.config import ModelConfig
from ttc.model.weights import CONTEXT, DENOISER, GRAPH_OF, in_dtype, model_weights
from ttc.runtime.gpu.executor import cache_specs, mamba_specs

# Published figures (docs/model.md, Real sizes): early blocks take 10 to 13 steps, late ones about 2, and at a
# threshold of 0.9 a denoiser evaluation gives 2.65 tokens on average, so a block of 16 takes 6.04.
EARLY_STEPS, LATE_STEPS, TOKENS_PER_NFE = (10, 11, 12, 13), 2, 2.65
BLOCK = 16
# Distinct experts hit per layer, from one token to a full batch.
DISTINCT = (6, 14, 25, 68, 128)
BATCHES = (1, 8)
# Experts that a denoise step of one row hits as published, for which there is a goal.
USUAL_EXPERTS = 68
# Up to so many tokens the expert products are bound by memory.
MEMORY_BOUND_TOKENS = 256
ROUTING_OUTPUTS = ("expert_ids", "weights", "grouped_pairs", "grouped_rows", "expert_offsets")


@dataclass(frozen=True, slots=True)
class Work:
    """One thing that is measured: "denoise", "extend" or "ar", over a batch, with so many experts hit."""

    kind: str
    batch: int
    distinct: int

    @property
    def tower(self) -> str:
        """The tower that computes it."""
        return DENOISER if self.kind == "denoise" else CONTEXT

    @property
    def length(self) -> int:
        """Tokens a row reads."""
        return 1 if self.kind == "ar" else BLOCK


def early_share() -> float:
    """Return the share of blocks with as many steps as early ones that makes the mean the published one."""
    mean, early = BLOCK / TOKENS_PER_NFE, sum(EARLY_STEPS) / len(EARLY_STEPS)
    return (mean - LATE_STEPS) / (early - LATE_STEPS)


def draw_steps(blocks: int, seed: int = 0) -> list[int]:
    """Return denoise steps of so many blocks."""
    draw = np.random.default_rng(seed)
    early = draw.random(blocks) < early_share()
    return np.where(early, draw.choice(EARLY_STEPS, blocks), LATE_STEPS).tolist()


def weight_shapes(config: ModelConfig, tower: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return graph weight → dtype and shape of one tower in bfloat16, experts stacked."""
    specs = (in_dtype(spec, "bfloat16") for spec in model_weights(config).values())
    return {spec.name: (spec.dtype, spec.shape) for spec in specs if GRAPH_OF[tower] in spec.graphs}


def tower_bytes(config: ModelConfig, tower: str) -> int:
    """Return the bytes of one tower's weights."""
    return sum(_bytes(dtype, shape) for dtype, shape in weight_shapes(config, tower).values())


def distinct_experts(config: ModelConfig, work: Work) -> int:
    """Return how many experts a layer can hit at most of those asked for: no more than there are pairs."""
    pairs = work.batch * work.length * config.num_experts_per_tok
    return min(work.distinct, pairs, config.n_routed_experts)


def routing(config: ModelConfig, tokens: int, distinct: int) -> dict[str, npt.NDArray[Any]]:
    """Return outputs of `MoeRouting` that spread the pairs evenly over the first `distinct` experts."""
    K, E = config.num_experts_per_tok, config.n_routed_experts
    assert K <= distinct <= min(E, tokens * K)
    flat = np.arange(tokens * K) % distinct
    order = np.argsort(flat, kind="stable")
    rows = np.empty_like(order)
    rows[order] = np.arange(len(order))
    counts = np.bincount(flat, minlength=E)
    made = {
        "expert_ids": flat.reshape(tokens, K).astype(np.int32),
        "weights": np.full((tokens, K), config.routed_scaling_factor / K, np.float32),
        "grouped_pairs": order.astype(np.int32),
        "grouped_rows": rows.reshape(tokens, K).astype(np.int32),
        "expert_offsets": np.concatenate([[0], counts.cumsum()]).astype(np.int32),
    }
    return {name: made[name] for name in ROUTING_OUTPUTS}


def bytes_that_must_move(config: ModelConfig, work: Work, context_tokens: int) -> dict[str, int]:
    """Return the bytes read or written at least once, by what they are.

    Weights of the experts that are hit and of everything else once, whatever the batch; the rows of the
    embedding that are looked up; of the state what the tower reads, and writes where it moves it; the logits.
    Activations inside are left out: they fit the cache.
    """
    tokens = work.batch * work.length
    shapes = weight_shapes(config, work.tower)
    experts = {name: spec for name, spec in shapes.items() if ".mixer.experts." in name}
    dense = sum(
        _bytes(*spec)
        for name, spec in shapes.items()
        if name not in experts and not name.endswith("embeddings.weight")
    )
    one_expert = sum(_bytes(dtype, shape[1:]) for dtype, shape in experts.values())
    mamba = sum(_bytes(*spec) for spec in mamba_specs(config, "bfloat16", work.batch).values())
    per_token = sum(_bytes(*spec) for spec in cache_specs(config, "bfloat16", work.batch, 1).values())
    moves = work.tower == CONTEXT
    positions = BLOCK if work.kind == "denoise" else 1
    return {
        "dense weights": dense,
        "expert weights": one_expert * distinct_experts(config, work),
        "embedding rows": 2 * tokens * config.hidden_size,
        "state": mamba * (2 if moves else 1) + per_token * (context_tokens + (work.length if moves else 0)),
        "logits": work.batch * positions * config.vocab_size * 2 * (1 if work.kind == "extend" else 2),
    }


@dataclass(frozen=True, slots=True)
class Fit:
    """How much of the model is measured. A call uses one tower, so only that one is on the GPU meanwhile.

    both: whether both would fit at once.  label: the same in words, for the report.
    """

    layers: int
    both: bool
    label: str


def fit(config: ModelConfig, free: int, spare: int = 6 * 2**30) -> Fit:
    """Return all layers, or as many as there is memory for.

    spare: bytes for state, buffers and the libraries.
    """
    total = config.num_layers
    every_kind = 1 + max(config.layers.index(kind) for kind in set(config.layers))
    for layers in range(total, every_kind - 1, -1):
        part = shortened(config, layers)
        towers = [tower_bytes(part, tower) for tower in (CONTEXT, DENOISER)]
        if max(towers) + spare <= free:
            which = f"all {total} layers" if layers == total else f"only the first {layers} of {total} layers"
            both = layers == total and sum(towers) + spare <= free
            return Fit(layers, both, f"{which}, one tower on the GPU at a time")
    raise SystemExit(
        f"{free / 1e9:.1f} GB free: not even {every_kind} layers fit, the fewest with every kind"
    )


def shortened(config: ModelConfig, layers: int) -> ModelConfig:
    """Return the model with its first layers only."""
    if layers == config.num_layers:
        return config
    content = config.to_dict() | {"pattern": config.pattern[:layers]}
    return ModelConfig.from_dict(content, "shortened")


def row(
    config: ModelConfig, work: Work, seconds: float, context_tokens: int, bytes_per_second: float
) -> dict[str, Any]:
    """Return one line of the report: time, floor, their ratio, share of the bandwidth."""
    moved = bytes_that_must_move(config, work, context_tokens)
    total = sum(moved.values())
    floor = total / bytes_per_second
    return {
        "what": work.kind,
        "batch": work.batch,
        "distinct_experts": distinct_experts(config, work),
        "ms": seconds * 1e3,
        "floor_ms": floor * 1e3,
        "times_floor": seconds / floor,
        "bandwidth_share": floor / seconds,
        "bytes": moved,
    }


def nfe_in_ar_steps(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one denoiser evaluation in AR steps, measured and by the bytes alone; the AR step is the one
    that hits as many experts, or the most that its tokens can.
    """
    found = []
    for denoise in (line for line in rows if line["what"] == "denoise"):
        steps = [line for line in rows if line["what"] == "ar" and line["batch"] == denoise["batch"]]
        near = [line for line in steps if line["distinct_experts"] <= denoise["distinct_experts"]]
        if near:
            ar = max(near, key=lambda line: line["distinct_experts"])
            found.append(
                {
                    "batch": denoise["batch"],
                    "distinct_experts": denoise["distinct_experts"],
                    "distinct_experts_ar": ar["distinct_experts"],
                    "measured": denoise["ms"] / ar["ms"],
                    "by_bytes": denoise["floor_ms"] / ar["floor_ms"],
                }
            )
    return found


def goals(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the goals with what the lines of a run hold of them; `met` is None where it was not measured."""

    def of(stage: str, key: str, **where: Any) -> list[float]:
        return [
            line[key]
            for line in lines
            if line["stage"] == stage and key in line and where.items() <= line.items()
        ]

    products: dict[tuple[int, int], float] = {}
    for line in lines:
        # Beyond some 256 tokens arithmetic, not the memory, is the bound.
        if line["stage"] == "experts" and "up_share" in line and line["tokens"] <= MEMORY_BOUND_TOKENS:
            case, share = (line["tokens"], line["experts"]), min(line["up_share"], line["down_share"])
            products[case] = max(products.get(case, 0.0), share)
    faster = [line["eager_ms"] / line["ms"] for line in lines if line["stage"] == "eager" and "ms" in line]
    block = {"what": "block", "graph_level": 2}
    return [
        _goal(
            "expert products, best tile: share of the read bandwidth", [*products.values()], 0.85, least=True
        ),
        _goal(
            f"denoise step of {USUAL_EXPERTS} experts: times its floor",
            of("steps", "times_floor", what="denoise", distinct_experts=USUAL_EXPERTS),
            1.25,
            least=False,
        ),
        _goal("AR step: times its floor", of("steps", "times_floor", what="ar"), 1.5, least=False),
        _goal("times as fast as eager towers", faster, 5.0, least=True),
        _goal("launches per block at level 2", of("blocks", "launches", **block), 1, least=False),
        _goal("host waits inside a block at level 2", of("blocks", "waits_inside", **block), 0, least=False),
    ]


def _bytes(dtype: str, shape: Sequence[Any]) -> int:
    return prod(int(dim) for dim in shape) * numpy_dtype(dtype).itemsize


def _goal(what: str, values: Sequence[float], bound: float, *, least: bool) -> dict[str, Any]:
    """Return a goal that the worst of the values must meet."""
    value = (min if least else max)(values, default=None)
    met = None if value is None else bool(value >= bound if least else value <= bound)
    return {"goal": what, "at_least" if least else "at_most": bound, "measured": value, "met": met}
