"""The pieces of the towers that are traced on their own: embedding, time embedding, one layer of each kind,
heads, advance, step.

A piece is a function from named tensors to named tensors, with the shapes and dtypes of what it takes. Layers
of one kind share a piece, so a name inside a piece carries no layer number; `ttc.exporter.onnx.graphs` adds
it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttc.exporter.onnx.tracing import run_symbolic
from ttc.formats.manifest import WeightSpec
from ttc.model import towers
from ttc.model.config import LayerKind, ModelConfig
from ttc.model.graphs import (
    BLOCK_IDS,
    COMMIT_LEN,
    INPUT_IDS,
    LENGTHS,
    LOGIT_POSITIONS,
    SAVED_NAMES,
    STEP_OUTPUTS,
    GraphTensor,
    T,
    graph_inputs,
    layer_saved,
    layer_state,
    new_name,
)
from ttc.model.weights import ADVANCE_WEIGHTS, CONTEXT, DENOISER, TIME_WEIGHTS
from ttc.plugins.diffusion_step import DIFFUSION_STEP

__all__ = [
    "TracedPiece",
    "Weights",
    "advance_piece",
    "embed_piece",
    "head_piece",
    "layer_piece",
    "step_piece",
    "time_piece",
]

# Name in a piece → the weight.
Weights = Mapping[str, WeightSpec]


@dataclass(frozen=True, slots=True)
class TracedPiece:
    """A function that is traced on its own.

    Attributes:
        key: equal keys mean equal traces.
        arguments: what it takes; weights under their names inside the piece.
        run: named tensors → named tensors.
    """

    key: str
    arguments: tuple[GraphTensor, ...]
    run: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def embed_piece(config: ModelConfig, dtype: str, tower: str) -> TracedPiece:
    """Make the embedding of a tower: token ids (B, L) → x (B, L, D)."""
    table = GraphTensor("table", dtype, (config.vocab_size, config.hidden_size))
    ids = INPUT_IDS if tower == CONTEXT else BLOCK_IDS
    return TracedPiece(
        f"embedding of {ids.name}", (ids, table), lambda a: {"x": towers.embed(a["table"], a[ids.name])}
    )


def time_piece(config: ModelConfig, dtype: str, weights: Weights) -> TracedPiece:
    """Make the time embedding: t (B,) → modulation (B, 3, D)."""
    arguments = (T, *(_weight(name, weights[name]) for name in TIME_WEIGHTS))
    return TracedPiece(
        "time embedding",
        arguments,
        lambda a: {"modulation": towers.time_embedding(config, a, a["t"], getattr(torch, dtype))},
    )


def layer_piece(
    config: ModelConfig, dtype: str, weights: Weights, tower: str, kind: LayerKind
) -> TracedPiece:
    """Make a layer of one kind.

    It takes x (B, L, D), the layer's state and what its tower takes, and gives x. In the context tower it
    also gives the new state, and what `advance` needs of the block.

    Args:
        config: the model.
        dtype: the compute dtype.
        weights: those of the layer, by their names inside it.
        tower: the layer's.
        kind: the layer's.
    """
    state = [tensor.typed(dtype) for tensor in layer_state(config, kind)]
    x = GraphTensor("x", dtype, ("B", "L", config.hidden_size))
    weight_arguments = tuple(_weight(inside, spec) for inside, spec in weights.items())

    def run_context(a: Mapping[str, Tensor]) -> dict[str, Tensor]:
        before = tuple(a[s.name] for s in state)
        out, after, saved = towers.context_layer(
            config, kind, a, run_symbolic, a["x"], a["lengths"], a["commit_len"], before
        )
        outputs = {"x": out} | {new_name(s.name): tensor for s, tensor in zip(state, after, strict=True)}
        return outputs | dict(zip(SAVED_NAMES, saved, strict=False))

    def run_denoiser(a: Mapping[str, Tensor]) -> dict[str, Tensor]:
        context = tuple(a[s.name] for s in state)
        out = towers.denoiser_layer(
            config, kind, a, run_symbolic, a["x"], a["modulation"], a["t"], a["lengths"], context
        )
        return {"x": out}

    stored = sorted({spec.dtype for spec in weights.values()} - {dtype, "float32"})
    what = f"{kind} of {stored[0]}" if stored else str(kind)
    if tower == CONTEXT:
        arguments = (x, LENGTHS, COMMIT_LEN, *state, *weight_arguments)
        return TracedPiece(f"context layer {what}", arguments, run_context)
    modulation = GraphTensor("modulation", dtype, ("B", 3, config.hidden_size))
    arguments = (x, modulation, T, LENGTHS, *state, *weight_arguments)
    return TracedPiece(f"denoiser layer {what}", arguments, run_denoiser)


def head_piece(config: ModelConfig, dtype: str, tower: str) -> TracedPiece:
    """Make the head of a tower: x (B, L, D) → logits float32.

    The context tower gives them at requested positions, (B, R, V); the denoiser at all, (B, L, V).
    """
    D, V = config.hidden_size, config.vocab_size
    x, norm, head = (
        GraphTensor("x", dtype, ("B", "L", D)),
        GraphTensor("norm", dtype, (D,)),
        GraphTensor("head", dtype, (V, D)),
    )
    if tower == DENOISER:
        return TracedPiece(
            "denoiser head",
            (x, norm, head),
            lambda a: {"logits": towers.denoiser_head(config, run_symbolic, a["norm"], a["head"], a["x"])},
        )
    return TracedPiece(
        "context head",
        (x, LOGIT_POSITIONS, norm, head),
        lambda a: {
            "logits": towers.context_head(
                config, run_symbolic, a["norm"], a["head"], a["x"], a["logit_positions"]
            )
        },
    )


def advance_piece(config: ModelConfig, dtype: str, weights: Weights) -> TracedPiece:
    """Make what moves a Mamba layer's state later: saved block inputs, state → new state.

    Args:
        config: the model.
        dtype: the compute dtype.
        weights: those of the layer, by their names inside it.
    """
    saved = [tensor.typed(dtype) for tensor in layer_saved(config, LayerKind.MAMBA)]
    state = [tensor.typed(dtype) for tensor in layer_state(config, LayerKind.MAMBA)]
    weight_arguments = tuple(_weight(inside, weights[inside]) for inside in ADVANCE_WEIGHTS)

    def run(a: Mapping[str, Tensor]) -> dict[str, Tensor]:
        xbc, dt = (a[s.name] for s in saved)
        before = tuple(a[s.name] for s in state)
        after = towers.advance_layer(config, a, run_symbolic, xbc, dt, a["commit_len"], before)
        return {new_name(s.name): tensor for s, tensor in zip(state, after, strict=True)}

    return TracedPiece("advance", (*saved, COMMIT_LEN, *state, *weight_arguments), run)


def step_piece(config: ModelConfig) -> TracedPiece:
    """Make the diffusion step, and the t of the next denoiser evaluation."""
    arguments = graph_inputs(config, "step")

    def run(a: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = run_symbolic(
            DIFFUSION_STEP, *(a[arg.name] for arg in arguments), mask_id=config.mask_token_id
        )
        named = dict(zip((tensor.name for tensor in STEP_OUTPUTS), outputs, strict=True))
        return named | {"t": named["masked_count"].float() / a["block_ids"].shape[1]}

    return TracedPiece("diffusion step", arguments, run)


def _weight(name: str, spec: WeightSpec) -> GraphTensor:
    """Return a weight as an input of a piece, under its name there."""
    return GraphTensor(name, spec.dtype, spec.shape)
