"""Stages of `benchmarks.gpu` that look at one kernel, or one layer, at a time.

Kernels are compared with their naive functions on the same device before they are timed; of the expert
products, whose twins loop over experts, with the first rows in float32.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import gpu_reckoning as reckoning
from benchmarks.gpu_attention_cases import attention_cases
from benchmarks.gpu_bed import Bed, Case, Lines
from ttc.model import fused_towers, towers
from ttc.model.config import LayerKind, ModelConfig
from ttc.model.graphs import layer_names
from ttc.model.places import Dense
from ttc.model.towers import TowerWeights
from ttc.model.weights import CONTEXT, DENOISER
from ttc.plugins.gated_group_norm import GATED_GROUP_NORM
from ttc.plugins.kernels import KERNELS
from ttc.plugins.launch import Tile
from ttc.plugins.mamba_advance import MAMBA_ADVANCE
from ttc.plugins.mamba_block_scan import MAMBA_CONV, MAMBA_SCAN
from ttc.plugins.mamba_mixer import MAMBA_LONG_MIXER, MAMBA_MIXER, MAMBA_READING
from ttc.plugins.moe_experts import MOE_COMBINE, MOE_DOWN, MOE_UP
from ttc.plugins.moe_routing import MOE_ROUTING
from ttc.plugins.naive import run_naive
from ttc.plugins.residual_norm import GATED_MIXTURE_RESIDUAL_NORM_MODULATED, GATED_RESIDUAL_MODULATED_NORM
from ttc.plugins.residual_stream import MODULATED_NORM
from ttc.plugins.router_logits import ROUTER_LOGITS
from ttc.plugins.split_predict import SPLIT_PREDICT, splits
from ttc.plugins.triton import run_triton
from ttc.plugins.weight_tiles import in_tiles
from ttc.runtime.gpu.executor import state_specs

__all__ = ["experts", "kernels", "layers"]


def experts(bed: Bed) -> Lines:
    """Yield the two expert products by tokens, experts hit, tile and how weights lie: share of the read
    bandwidth, errors.
    """
    config, E, K = bed.config, bed.config.n_routed_experts, bed.config.num_experts_per_tok
    D, width = config.hidden_size, config.moe_intermediate_size
    up = bed.randn(E, width, D) * D**-0.5
    down = bed.randn(E, D, width) * width**-0.5
    laid = {"tiles": [in_tiles(stack.clone()) for stack in (up, down)], "rows": [up, down]}
    # What counts most first; few experts for many tokens: an expert's weights should still be read once.
    cases = ((16, 59), (1, K), (128, E), (128, 25), (512, E), (2048, E), (16, 25), (128, K), (8, 40))
    for place, (tokens, distinct) in enumerate(((1, K), (5, 4)) if bed.small else cases):
        distinct = min(distinct, tokens * K, E)
        x = bed.randn(tokens, D)
        sets = [bed.routed(tokens, distinct, seed) for seed in range(bed.sets if distinct < E else 2)]
        suited = [each for each in enumerate(KERNELS["MoeUp"].tiles) if _may_suit(each[1], tokens)]
        # Engines have rows; what tiles of weights are worth, the first cases say.
        lays = ("tiles", "rows") if place < 3 else ("tiles",)
        for (number, tile), weights in itertools.product(suited, lays):
            line = {"tokens": tokens, "experts": distinct, "tile": tile.name, "weights": weights}
            try:
                yield line | _products(bed, x, up, down, laid[weights], sets, number)
            except Exception as fault:  # a tile that one GPU refuses says nothing of the next
                yield line | {"error": f"{type(fault).__name__}: {fault}"[:300]}


def _may_suit(tile: Tile, tokens: int) -> bool:
    """Return whether a tile is worth its time: it has neither far more rows than an expert nor far fewer."""
    least = tile.blocks["BLOCK_M"] >> (tile.blocks["SIZES"] - 1)
    return least <= max(tokens, 16) and (tokens <= 128 or tile.blocks["BLOCK_M"] > 32)


def _products(
    bed: Bed,
    x: Tensor,
    up: Tensor,
    down: Tensor,
    laid: Sequence[Tensor],
    sets: Sequence[Mapping[str, Tensor]],
    tile: int,
) -> dict[str, Any]:
    def chosen(of: Mapping[str, Tensor]) -> list[Tensor]:
        return [of[name] for name in ("expert_ids", "grouped_pairs", "expert_offsets")]

    first, K = sets[0], bed.config.num_experts_per_tok
    (activated,) = run_triton(MOE_UP, x, laid[0], *chosen(first), tile=tile)
    (rows,) = run_triton(MOE_DOWN, activated, laid[1], *chosen(first), tile=tile)
    pairs = first["grouped_pairs"].long()[:64]
    taken = first["expert_ids"].flatten()[pairs].tolist()
    tokens = (pairs // K).tolist()
    want = torch.stack(
        [torch.relu(x[t].float() @ up[e].float().T).square() for t, e in zip(tokens, taken, strict=True)]
    )
    want_rows = torch.stack([activated[i].float() @ down[e].float().T for i, e in enumerate(taken)])
    ups = [partial(run_triton, MOE_UP, x, laid[0], *chosen(each), tile=tile) for each in sets]
    downs = [partial(run_triton, MOE_DOWN, activated, laid[1], *chosen(each), tile=tile) for each in sets]
    up_seconds, down_seconds = bed.timer.seconds(ups), bed.timer.seconds(downs)
    distinct = len(first["expert_ids"].unique())
    floor = distinct * up[0].nbytes / bed.ceilings.read_bytes
    flops = 2 * x.shape[0] * K * up[0].numel()
    return {
        "up_us": up_seconds * 1e6,
        "down_us": down_seconds * 1e6,
        "floor_us": floor * 1e6,
        "up_share": floor / up_seconds,
        "down_share": floor / down_seconds,
        "up_flops_share": flops / up_seconds / bed.ceilings.bf16_flops,
        "up_error": relative(activated[: len(want)], want),
        "down_error": relative(rows[: len(want)], want_rows),
    }


def kernels(bed: Bed) -> Lines:
    """Yield the other kernels, those of glue by examples: time behind a cold L2 and a warm one, floor,
    distance from the twin.
    """
    for what, op, make, moved, attributes in itertools.chain(_cases(bed), attention_cases(bed)):
        line = {"what": what}
        try:
            sets = [make() for _ in range(bed.sets)]
            got = run_triton(op, *sets[0], **attributes)
            want = run_naive(op, *sets[0], **attributes)
            calls = [
                partial(run_triton, op, *inputs, out=inputs[2:4] if op.in_place else None, **attributes)
                for inputs in sets
            ]
            cold, warm = bed.timer.cold_seconds(calls), bed.timer.seconds(calls)
            floor = moved / bed.ceilings.read_bytes
            yield line | {
                "us": cold * 1e6,
                "warm_us": warm * 1e6,
                "floor_us": floor * 1e6,
                "error": {
                    spec.name: relative(a, b) if a.dtype.is_floating_point else int((a != b).sum())
                    for spec, a, b in zip(op.outputs, got, want, strict=True)
                },
            }
        except Exception as fault:
            yield line | {"error": f"{type(fault).__name__}: {fault}"[:300]}


def _cases(bed: Bed) -> Iterator[Case]:
    """Yield name, op, inputs, bytes that must move, attributes."""
    c, r = bed.config, bed.randn
    D, E, K, V, F, W = (
        c.hidden_size,
        c.n_routed_experts,
        c.num_experts_per_tok,
        c.vocab_size,
        c.conv_dim,
        c.conv_kernel,
    )
    H, P, N, M, wide = c.mamba_num_heads, c.mamba_head_dim, c.ssm_state_size, c.d_inner, torch.float32
    routing = {"K": K, "n_group": 1, "topk_group": 1, "norm_topk_prob": 1, "routed_scaling_factor": 2.5}
    for T in (1, 5) if bed.small else (1, 16, 128, 512, 2048):
        yield (
            f"MoeRouting T={T}",
            MOE_ROUTING,
            lambda T=T: [r(T, E, dtype=wide), r(E, dtype=wide) * 0.1],
            4.0 * T * E,
            routing,
        )
        yield (
            f"RouterLogits T={T}",
            ROUTER_LOGITS,
            lambda T=T: [r(T, D), r(E, D, dtype=wide) * D**-0.5],
            4.0 * E * D + 2.0 * T * D,
            {},
        )
        yield (
            f"MoeCombine T={T}",
            MOE_COMBINE,
            lambda T=T: [
                r(T * K, D, dtype=wide),
                r(T, K, dtype=wide),
                torch.arange(T * K, device=bed.timer.device).int().view(T, K),
            ],
            4.0 * T * K * D,
            {},
        )
    for B, L in ((1, 1), (2, 5)) if bed.small else ((1, 1), (1, 16), (8, 16), (1, 64), (1, 256)):
        head = [r(H), r(H)]
        state = 4.0 * B * H * P * N
        sizes = f"B={B} L={L}"
        yield (
            f"MambaConv {sizes}",
            MAMBA_CONV,
            lambda B=B, L=L: [r(B, L, F), r(B, F, W - 1), r(F, 1, W) * 0.5, r(F)],
            2.0 * B * F * (2 * L + W),
            {"W": W},
        )
        yield (
            f"MambaScan {sizes}",
            MAMBA_SCAN,
            lambda B=B, L=L, head=head: [r(B, L, F), r(B, L, H), r(B, H, P, N, dtype=wide), *head, r(H)],
            state + 2.0 * B * L * (F + M),
            {"G": c.n_groups},
        )
        yield (
            f"MambaAdvance {sizes}",
            MAMBA_ADVANCE,
            lambda B=B, L=L, head=head: [
                r(B, L, F),
                r(B, L, F),
                r(B, L, H),
                r(B, F, W - 1),
                r(B, H, P, N, dtype=wide),
                *head,
                bed.full((B,), L, torch.int32),
            ],
            2 * state + 4.0 * B * L * F,
            {"G": c.n_groups},
        )
        mixer = lambda B=B, L=L, head=head: [  # noqa: E731
            r(B, L, F),
            r(B, L, H),
            r(B, F, W - 1),
            r(B, H, P, N, dtype=wide),
            torch.arange(B, device=bed.timer.device).int(),
            r(F, 1, W) * 0.5,
            r(F),
            *head,
            r(H),
        ]
        block = 2.0 * B * L * (F + M)
        yield f"MambaReading {sizes}", MAMBA_READING, mixer, state + block, {"G": c.n_groups, "W": W}
        yield (
            f"MambaMixer {sizes}",
            MAMBA_MIXER,
            lambda B=B, L=L, mixer=mixer: [*mixer(), bed.full((B,), L, torch.int32)],
            2 * state + block,
            {"G": c.n_groups, "W": W},
        )
        long = lambda B=B, L=L, head=head: [  # noqa: E731
            r(B, L, F),
            r(B, L, F),
            r(B, L, H),
            r(B, F, W - 1),
            r(B, H, P, N, dtype=wide),
            torch.arange(B, device=bed.timer.device).int(),
            *head,
            r(H),
            bed.full((B,), L, torch.int32),
        ]
        yield f"MambaLongMixer {sizes}", MAMBA_LONG_MIXER, long, 2 * state + block, {"G": c.n_groups, "W": W}
        yield (
            f"GatedGroupNorm {sizes}",
            GATED_GROUP_NORM,
            lambda B=B, L=L: [r(B, L, M), r(B, L, M), r(M)],
            6.0 * B * L * M,
            {"G": c.n_groups, "epsilon": c.layer_norm_epsilon},
        )
        modulation = [r(B, 3, D), bed.full((B,), 0.5, wide), r(3, D)]
        yield (
            f"ModulatedNorm {sizes}",
            MODULATED_NORM,
            lambda B=B, L=L, m=modulation: [r(B, L, D), *m, r(D)],
            4.0 * B * L * D,
            {"epsilon": c.layer_norm_epsilon},
        )
        yield (
            f"GatedResidualModulatedNorm {sizes}",
            GATED_RESIDUAL_MODULATED_NORM,
            lambda B=B, L=L, m=modulation: [r(B, L, D), r(B, L, D), *m, r(3, D), r(D)],
            8.0 * B * L * D,
            {"epsilon": c.layer_norm_epsilon},
        )
        yield (
            f"GatedMixtureResidualNormModulated {sizes}",
            GATED_MIXTURE_RESIDUAL_NORM_MODULATED,
            lambda B=B, L=L, m=modulation: [
                r(B, L, D),
                r(B * L * K, D, dtype=wide),
                r(B * L, K, dtype=wide),
                torch.arange(B * L * K, device=bed.timer.device).int().view(B * L, K),
                r(B, L, D),
                *m,
                r(3, D),
                r(D),
            ],
            (8.0 + 4.0 * K) * B * L * D,
            {"epsilon": c.layer_norm_epsilon},
        )
    for B, L in ((1, 2),) if bed.small else ((1, 1), (1, 16), (8, 16)):
        for temperature in (0.0, 1.0):
            yield (
                f"SplitPredict B={B} L={L} temperature={temperature:g}",
                SPLIT_PREDICT,
                lambda B=B, L=L, hot=temperature: [
                    r(B, L, V),
                    bed.full((B, L), 3, torch.int32),
                    bed.full((B,), hot, wide),
                    bed.full((B,), 77, torch.int64),
                    bed.full((B,), 9, torch.int32),
                    bed.full((B,), 0, torch.int32),
                ],
                4.0 * B * L * V,
                {"mask_id": 3, "X": splits(B * L, V)},
            )


def layers(bed: Bed) -> Lines:
    """Yield one layer of each kind and the head, as graphs behind a cold L2: what a step consists of."""
    deepest = 1 + max(bed.config.layers.index(kind) for kind in set(bed.config.layers))
    config = reckoning.shortened(bed.config, deepest)
    for tower in (DENOISER, CONTEXT):
        weights = {
            name: bed.randn(*shape, dtype=getattr(torch, dtype)) * shape[-1] ** -0.5
            for name, (dtype, shape) in reckoning.weight_shapes(config, tower).items()
        }
        sorted_weights = TowerWeights.of(config, tower, weights)
        del weights
        sizes = ((1, 16), (8, 16)) if tower == DENOISER else ((1, 1), (8, 1), (1, 16))
        for B, L in ((1, 4),) if bed.small else sizes:
            line = {"tower": tower, "batch": B, "tokens": L}
            for what, call in _layer_calls(bed, config, tower, sorted_weights, B, L):
                try:
                    with torch.inference_mode():
                        seconds = bed.timer.cold_seconds([call] * (1 if bed.small else 4))
                    times = 1 if what == "head" else bed.config.pattern.count(what)
                    yield line | {"what": what, "us": seconds * 1e6, "times": times}
                except Exception as fault:
                    yield line | {"what": what, "error": f"{type(fault).__name__}: {fault}"[:300]}


def _layer_calls(
    bed: Bed, config: ModelConfig, tower: str, weights: TowerWeights, B: int, L: int
) -> Iterator[tuple[str, Callable[[], object]]]:
    C = 64 if bed.small else 2048
    state = {
        name: bed.full([int(dim) for dim in shape], 0, getattr(torch, dtype))
        for name, (dtype, shape) in state_specs(config, "bfloat16", B, C).items()
    }
    x, t = bed.randn(B, L, config.hidden_size), bed.full((B,), 0.5, torch.float32)
    modulation = bed.randn(B, 3, config.hidden_size)
    place, count = Dense(bed.full((B,), C // 2, torch.int32)), bed.full((B,), L, torch.int32)
    in_place = lambda op, *xs, **a: run_triton(op, *xs, out=xs[2:4] if op.in_place else None, **a)  # noqa: E731
    for kind in dict.fromkeys(config.layers):
        i = config.layers.index(kind)
        own, w = tuple(state[name] for name in layer_names(config, i)), weights.layers[i]

        def denoise(kind: LayerKind = kind, own: Any = own, w: Any = w) -> object:
            following = kind, w  # as if another of the kind came next: all norms cost about the same
            return fused_towers.denoiser_layer(
                config, kind, w, following, weights.norm, run_triton, x, x, modulation, t, place, own
            )

        def read(kind: LayerKind = kind, own: Any = own, w: Any = w) -> object:
            moved = w["norm.weight"], in_place, x, x, place, count, own
            return fused_towers.context_layer(config, kind, w, *moved)

        yield str(kind), denoise if tower == DENOISER else read
    yield "head", lambda: towers.denoiser_head(config, run_triton, weights.norm, weights.head, x)


def relative(got: Tensor, want: Tensor) -> float:
    """Return the distance as a share of what is wanted."""
    return float((got.float() - want.float()).norm() / want.float().norm().clamp(min=1e-30))
