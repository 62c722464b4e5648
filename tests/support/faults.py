"""Faults planted in the graphs of an exported bundle: one layer is traced again from wrong towers."""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ttc.exporter.onnx import pieces
from ttc.exporter.onnx.tracing import trace
from ttc.formats.manifest import FileRecord, Manifest
from ttc.model import towers
from ttc.model.bundle import Bundle
from ttc.model.graphs import STATE_NAMES, numbered
from ttc.model.weights import GRAPH_OF
from ttc.plugins.functions import add_function_bodies

_TOWERS = {role: tower for tower, role in GRAPH_OF.items()}


def plant(clean: Path, folder: Path, role: str, layer: int, patch: Callable[[], Any]) -> Path:
    """A copy of a bundle whose graph `role` computes `layer` as the towers do after `patch()`.

    `patch` changes functions of `ttc.model.towers`; who calls this undoes it (monkeypatch). Digests and
    everything else are as an export would write them.
    """
    copy = folder / "faulty.bundle"
    shutil.copytree(clean, copy, ignore=shutil.ignore_patterns("verification.json"))
    with Bundle.open(clean) as bundle:
        manifest, config = bundle.manifest, bundle.config
        tower, kind = _TOWERS[role], bundle.config.layers[layer]
        names = towers.layer_weight_names(config, tower, bundle.weights)[layer]
        weights = {inside: bundle.weights[name] for inside, name in names.items()}
    patch()
    piece = pieces.layer_piece(config, manifest.compute_dtype, weights, tower, kind)
    template = trace(piece.run, piece.arguments)
    path = copy / manifest.graphs[role]
    model = ir.load(path)
    state = {name: numbered(name, layer) for name in STATE_NAMES[kind]}
    _splice(model, template, f"layers.{layer}.{kind.scope}/", layer, names | state)
    ir.save(model, path)
    rewrite(copy)
    return copy


def rewrite(bundle: Path, **changes: Any) -> None:
    """Write bundle.json again, with these fields changed and the digests of the files as they are now."""
    path = bundle / "bundle.json"
    manifest = Manifest.from_json(path.read_bytes())
    files = {}
    for name in manifest.files:
        content = (bundle / name).read_bytes()
        files[name] = FileRecord(hashlib.sha256(content).hexdigest(), len(content))
    path.write_bytes(dataclasses.replace(manifest, files=files, **changes).to_json())


def _splice(model: ir.Model, template: ir.Graph, scope: str, layer: int, names: Mapping[str, str]) -> None:
    """Put the template's nodes where the layer's stand, bound to the same values."""
    graph = model.graph
    own = [node for node in graph if (node.name or "").startswith(scope)]
    made = {str(value.name): value for node in graph for value in node.outputs}
    given = {str(v.name): v for v in [*graph.inputs, *graph.initializers.values()]}
    before = (value for node in own for value in node.inputs if value is not None)
    stream = next(v for v in before if str(v.name).endswith("/x") and not str(v.name).startswith(scope))
    fixed = {"x": stream, "modulation": made.get("time/modulation")}
    known: dict[ir.Value, ir.Value] = {}
    for value in template.inputs:
        inside = str(value.name)
        known[value] = fixed[inside] if inside in fixed else given[names.get(inside, inside)]
    for number, value in enumerate(template.initializers.values()):
        array = np.ascontiguousarray(value.const_value.numpy())
        tensor = ir.Tensor(array, dtype=value.const_value.dtype, name=f"fault.{number}")
        known[value] = ir.Value(
            name=f"fault.{number}", type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
        )
        graph.register_initializer(known[value])
    first = own[0]
    for node in template:
        new = ir.Node(
            node.domain,
            node.op_type,
            [None if v is None else known[v] for v in node.inputs],
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=f"{scope}{node.op_type}_{node.outputs[0].name}",
        )
        for old, output in zip(node.outputs, new.outputs, strict=True):
            output.name, output.type, output.shape = f"{scope}new/{old.name}", old.type, old.shape
            if old.dtype == ir.DataType.INT64 and old.shape is not None and len(old.shape) == 0:
                output.shape = None  # as in ttc.exporter.onnx.graph_builder
            known[old] = output
        graph.insert_before(first, new)
    for output in template.outputs:
        name = str(output.name)
        old = made[f"{scope}x"] if name == "x" else made[f"{name}.{layer}"]
        _replace(graph, old, known[output])
    graph.remove(own, safe=True)
    add_function_bodies(model)


def _replace(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    name, old.name = old.name, f"{old.name}/replaced"
    new.name, new.type, new.shape = name, old.type, old.shape
    for user, index in tuple(old.uses()):
        user.replace_input_with(index, new)
    for i, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[i] = new
