"""A layer whose experts are stored in eight or four bits as a graph of its own; no checkpoint, no values."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from tests.support.stored_experts import FOUR_BITS, GROUP
from ttc.exporter.onnx.graph_builder import GraphBuilder
from ttc.exporter.onnx.pieces import layer_piece
from ttc.exporter.onnx.tracing import trace
from ttc.exporter.passes import pipeline, run_passes
from ttc.formats.manifest import WeightSpec
from ttc.model.config import LayerKind, ModelConfig
from ttc.model.towers import layer_weight_names
from ttc.model.weights import DENOISER, in_dtype, model_weights


def stored_specs(config: ModelConfig, stored: str, dtype: str) -> dict[str, WeightSpec]:
    """The model's weights with every stack of experts stored so, and its scales."""
    specs = {}
    for name, spec in model_weights(config).items():
        specs[name] = in_dtype(spec, dtype)
        if ".mixer.experts." not in name or stored == "plain":
            continue
        E, out, width = spec.shape
        specs[name] = dataclasses.replace(specs[name], dtype=stored, piece="weight")
        if stored in FOUR_BITS:
            of_group = "float8_e4m3fn" if stored == "float4_e2m1fn" else dtype
            scales = [(of_group, (E, out, width // GROUP[stored])), ("float32", (E,))]
        else:
            scales = [("float32", (E, out))]
        for end, (kind, shape) in zip(("_scale", "_scale_2"), scales, strict=False):
            specs[name + end] = dataclasses.replace(
                specs[name], name=name + end, dtype=kind, shape=shape, piece=f"weight{end}"
            )
    return specs


def write_layer(path: Path, settings: Mapping[str, object], stored: str, dtype: str) -> Path:
    """The first layer of the denoiser, a MoE one, as `ttc export` writes it into its graph.

    Args:
        path: the file.
        settings: the model's config.json.
        stored: dtype of the experts' codes, or "plain".
        dtype: the compute dtype.
    """
    config = ModelConfig.from_hf(dict(settings))
    specs = stored_specs(config, stored, dtype)
    names = layer_weight_names(config, DENOISER, specs)[0]
    weights = {inside: specs[name] for inside, name in names.items()}
    piece = layer_piece(config, dtype, weights, DENOISER, LayerKind.MOE)
    build = GraphBuilder("denoiser")
    outputs = build.append_copy(trace(piece.run, piece.arguments), "layers.0.moe", {}, names)
    model = build.finish({"y": outputs["x"]}, specs.__contains__)
    about = {
        "role": "denoiser",
        "compute_dtype": dtype,
        "weights": "inputs",
        "model": json.dumps(config.to_dict(), sort_keys=True),
    }
    run_passes(model, pipeline(dict.fromkeys(specs, _never), about, packed=False))
    ir.save(model, path)
    return path


def _never() -> None:
    raise AssertionError("weights that stay inputs are not read")
