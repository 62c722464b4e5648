"""The pieces of the towers that are traced on their own: embedding, time embedding, one layer of each kind,
heads, advance, step.

A stage is a function from named tensors to named tensors, with the shapes and dtypes of what it takes. Layers
of one kind share a stage, so a name inside a stage carries no layer number; `ttc.exporter.onnx.graphs` gives
it one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttc.exporter.onnx.tracing import Argument, run_symbolic
from ttc.model import towers
from ttc.model.config import ModelConfig
from ttc.model.towers import CONTEXT, DENOISER
from ttc.plugins.diffusion_step import DIFFUSION_STEP

__all__ = [
    "Stage",
    "WeightShapes",
    "advance_stage",
    "embed_stage",
    "head_stage",
    "layer_stage",
    "state_arguments",
    "step_stage",
    "time_stage",
]

I32, F32 = "int32", "float32"
# Weight name → dtype name and shape in the graph.
WeightShapes = Mapping[str, tuple[str, tuple[int, ...]]]
ADVANCE_WEIGHTS = ("mixer.conv1d.weight", "mixer.conv1d.bias", "mixer.dt_bias", "mixer.A_log")


@dataclass(frozen=True, slots=True)
class Stage:
    """One piece.

    Attributes:
        key: equal keys mean equal traces.
        arguments: what it takes; weights under their names inside the stage.
        run: named tensors → named tensors.
    """

    key: str
    arguments: tuple[Argument, ...]
    run: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def embed_stage(config: ModelConfig, dtype: str, ids: str) -> Stage:
    """Token ids (B, L) → x (B, L, D)."""
    table = Argument("table", dtype, (config.vocab_size, config.hidden_size))
    arguments = (Argument(ids, I32, ("B", "L")), table)
    return Stage(f"embedding of {ids}", arguments, lambda a: {"x": towers.embed(a["table"], a[ids])})


def time_stage(config: ModelConfig, dtype: str, weights: WeightShapes) -> Stage:
    """t (B,) → modulation (B, 3, D)."""
    arguments = (
        Argument("t", F32, ("B",)),
        *(Argument(name, *weights[name]) for name in towers.TIME_WEIGHTS),
    )
    return Stage(
        "time embedding",
        arguments,
        lambda a: {"modulation": towers.time_embedding(config, a, a["t"], getattr(torch, dtype))},
    )


def layer_stage(config: ModelConfig, dtype: str, weights: WeightShapes, tower: str, kind: str) -> Stage:
    """A layer of one kind: x and the layer's state → x, and in the context tower the new state and what was
    saved.

    weights: those of the layer, by their names inside it.
    """
    state = state_arguments(config, dtype, kind)
    x, lengths = Argument("x", dtype, ("B", "L", config.hidden_size)), Argument("lengths", I32, ("B",))
    weight_arguments = tuple(Argument(inside, *weights[inside]) for inside in weights)

    def run_context(a: Mapping[str, Tensor]) -> dict[str, Tensor]:
        before = tuple(a[s.name] for s in state)
        out, after, saved = towers.context_layer(
            config, kind, a, run_symbolic, a["x"], a["lengths"], a["commit_len"], before
        )
        outputs = {"x": out} | {f"new_{s.name}": tensor for s, tensor in zip(state, after, strict=True)}
        return outputs | dict(zip(("saved_xbc", "saved_dt"), saved, strict=False))

    def run_denoiser(a: Mapping[str, Tensor]) -> dict[str, Tensor]:
        context = tuple(a[s.name] for s in state)
        out = towers.denoiser_layer(
            config, kind, a, run_symbolic, a["x"], a["modulation"], a["t"], a["lengths"], context
        )
        return {"x": out}

    if tower == CONTEXT:
        arguments = (x, lengths, Argument("commit_len", I32, ("B",)), *state, *weight_arguments)
        return Stage(f"context layer {kind}", arguments, run_context)
    modulation = Argument("modulation", dtype, ("B", 3, config.hidden_size))
    arguments = (x, modulation, Argument("t", F32, ("B",)), lengths, *state, *weight_arguments)
    return Stage(f"denoiser layer {kind}", arguments, run_denoiser)


def head_stage(config: ModelConfig, dtype: str, tower: str) -> Stage:
    """x (B, L, D) → logits float32: the context tower's (B, R, V) at requested places, the denoiser's (B, L,
    V).
    """
    D, V = config.hidden_size, config.vocab_size
    x, norm, head = (
        Argument("x", dtype, ("B", "L", D)),
        Argument("norm", dtype, (D,)),
        Argument("head", dtype, (V, D)),
    )
    if tower == DENOISER:
        return Stage(
            "denoiser head",
            (x, norm, head),
            lambda a: {"logits": towers.denoiser_head(config, a["norm"], a["head"], a["x"])},
        )
    places = Argument("logit_positions", I32, ("B", "R"))
    return Stage(
        "context head",
        (x, places, norm, head),
        lambda a: {"logits": towers.context_head(config, a["norm"], a["head"], a["x"], a["logit_positions"])},
    )


def advance_stage(config: ModelConfig, dtype: str, weights: WeightShapes) -> Stage:
    """Saved block inputs and state of a Mamba layer → new state. weights: the layer's, by their names inside
    it.
    """
    saved = (
        Argument("saved_xbc", dtype, ("B", "L", config.conv_dim)),
        Argument("saved_dt", dtype, ("B", "L", config.mamba_num_heads)),
    )
    state = state_arguments(config, dtype, "M")
    weight_arguments = tuple(Argument(inside, *weights[inside]) for inside in ADVANCE_WEIGHTS)

    def run(a: Mapping[str, Tensor]) -> dict[str, Tensor]:
        before = (a["conv_state"], a["ssm_state"])
        conv, ssm = towers.advance_layer(
            config, a, run_symbolic, a["saved_xbc"], a["saved_dt"], a["commit_len"], before
        )
        return {"new_conv_state": conv, "new_ssm_state": ssm}

    return Stage("advance", (*saved, Argument("commit_len", I32, ("B",)), *state, *weight_arguments), run)


def step_stage(config: ModelConfig) -> Stage:
    """The diffusion step, and the t of the next denoiser evaluation."""
    arguments = (
        Argument("logits", F32, ("B", "L", config.vocab_size)),
        Argument("block_ids", I32, ("B", "L")),
        Argument("threshold", F32, ("B",)),
        Argument("temperature", F32, ("B",)),
        Argument("row_key", "int64", ("B",)),
        Argument("position", I32, ("B",)),
        Argument("step", I32, ("B",)),
        Argument("steps_left", I32, ("B",)),
    )

    def run(a: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = run_symbolic(
            DIFFUSION_STEP, *(a[arg.name] for arg in arguments), mask_id=config.mask_token_id
        )
        named = dict(zip((spec.name for spec in DIFFUSION_STEP.outputs), outputs, strict=True))
        return named | {"t": named["masked_count"].float() / a["block_ids"].shape[1]}

    return Stage("diffusion step", arguments, run)


def state_arguments(config: ModelConfig, dtype: str, kind: str) -> tuple[Argument, ...]:
    """The context state of one layer of this kind."""
    if kind == "M":
        conv = ("B", config.conv_dim, config.conv_kernel - 1)
        ssm = ("B", config.mamba_num_heads, config.mamba_head_dim, config.ssm_state_size)
        return Argument("conv_state", dtype, conv), Argument("ssm_state", F32, ssm)
    if kind == "*":
        cache = ("B", config.num_key_value_heads, "C", config.head_dim)
        return Argument("k_cache", dtype, cache), Argument("v_cache", dtype, cache)
    return ()
