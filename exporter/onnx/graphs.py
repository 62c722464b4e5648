"""Makes the model's four ONNX graphs (`ttc.model.graphs`) out of traced pieces.

Weights are graph inputs named as in the checkpoint (expert stacks as `….experts.up_proj.weight`); the pass
`inputs_to_initializers` turns them into initializers where a bundle is packed.
"""

from collections.abc import Callable, Mapping

import onnx_ir as ir

from ttc.exporter.onnx import pieces
from ttc.exporter.onnx.graph_builder import GraphBuilder
from ttc.exporter.onnx.pieces import TracedPiece, Weights
from ttc.exporter.onnx.tracing import trace
from ttc.model import towers
from ttc.model.config import LayerKind, ModelConfig
from ttc.model.graphs import SAVED_NAMES, STATE_NAMES, graph_outputs, numbered
from ttc.model.weights import CONTEXT, DENOISER, HEADS

__all__ = ["GraphMaker"]


class GraphMaker:
    """Makes the graphs of one model. Pieces with equal keys are traced once.

    Args:
        config: the model.
        weights: name → weight of the graphs, in their dtypes.
        dtype: name of the compute dtype.
        progress: called with what is about to be traced.
    """

    def __init__(
        self, config: ModelConfig, weights: Weights, dtype: str, progress: Callable[[str], None]
    ) -> None:
        self._config, self._weights, self._dtype, self._progress = config, weights, dtype, progress
        self._layer_names = {
            tower: towers.layer_weight_names(config, tower, weights) for tower in (CONTEXT, DENOISER)
        }
        self._templates: dict[str, ir.Graph] = {}

    def make(self, role: str) -> ir.Model:
        """Return the graph of one role, without function bodies."""
        makers = {
            "context": self._context,
            "denoiser": self._denoiser,
            "step": self._step,
            "advance": self._advance,
        }
        return makers[role]()

    def _context(self) -> ir.Model:
        config, build = self._config, GraphBuilder("context")
        x = self._embed(build, CONTEXT)
        outputs: dict[str, ir.Value] = {}
        for i in range(config.num_layers):
            x, layer_outputs = self._layer(build, CONTEXT, i, {"x": x})
            outputs |= layer_outputs
        outputs["logits"] = self._head(build, CONTEXT, x)
        # New state first: saved inputs are only for those who commit afterwards.
        ordered = (tensor.name for tensor in graph_outputs(config, "context"))
        return self._finish(build, {name: outputs[name] for name in ordered})

    def _denoiser(self) -> ir.Model:
        config, build = self._config, GraphBuilder("denoiser")
        x = self._embed(build, DENOISER)
        time = pieces.time_piece(config, self._dtype, self._weights)
        modulation = self._append(build, time, "time")["modulation"]
        for i in range(config.num_layers):
            x, _ = self._layer(build, DENOISER, i, {"x": x, "modulation": modulation})
        return self._finish(build, {"logits": self._head(build, DENOISER, x)})

    def _step(self) -> ir.Model:
        build = GraphBuilder("step")
        return self._finish(build, self._append(build, pieces.step_piece(self._config), "step"))

    def _advance(self) -> ir.Model:
        config, build = self._config, GraphBuilder("advance")
        outputs: dict[str, ir.Value] = {}
        for i in config.layers_of(LayerKind.MAMBA):
            piece = pieces.advance_piece(config, self._dtype, self._layer_weights(CONTEXT, i))
            outputs |= self._numbered(i, self._append_layer(build, piece, CONTEXT, i, {}))
        return self._finish(build, outputs)

    def _embed(self, build: GraphBuilder, tower: str) -> ir.Value:
        piece = pieces.embed_piece(self._config, self._dtype, tower)
        return self._append(build, piece, "embedding", table=f"{tower}.embeddings.weight")["x"]

    def _layer(
        self, build: GraphBuilder, tower: str, i: int, bound: Mapping[str, ir.Value]
    ) -> tuple[ir.Value, dict[str, ir.Value]]:
        """Append layer i and return its x, and its other outputs under names that carry the layer number."""
        weights = self._layer_weights(tower, i)
        piece = pieces.layer_piece(self._config, self._dtype, weights, tower, self._config.layers[i])
        outputs = self._append_layer(build, piece, tower, i, bound)
        x = outputs.pop("x")
        return x, self._numbered(i, outputs)

    def _head(self, build: GraphBuilder, tower: str, x: ir.Value) -> ir.Value:
        piece = pieces.head_piece(self._config, self._dtype, tower)
        names = {"norm": f"{tower}.norm_f.weight", "head": HEADS[tower]}
        return self._append(build, piece, "head", {"x": x}, **names)["logits"]

    def _append_layer(
        self, build: GraphBuilder, piece: TracedPiece, tower: str, i: int, bound: Mapping[str, ir.Value]
    ) -> dict[str, ir.Value]:
        kind = self._config.layers[i]
        names = {name: numbered(name, i) for name in (*STATE_NAMES[kind], *SAVED_NAMES)}
        names |= self._layer_names[tower][i]
        return self._append(build, piece, f"layers.{i}.{kind.scope}", bound, **names)

    def _append(
        self,
        build: GraphBuilder,
        piece: TracedPiece,
        scope: str,
        bound: Mapping[str, ir.Value] | None = None,
        **names: str,
    ) -> dict[str, ir.Value]:
        if piece.key not in self._templates:
            self._progress(piece.key)
            self._templates[piece.key] = trace(piece.run, piece.arguments)
        return build.append_copy(self._templates[piece.key], scope, bound or {}, names)

    def _layer_weights(self, tower: str, i: int) -> Weights:
        return {inside: self._weights[name] for inside, name in self._layer_names[tower][i].items()}

    @staticmethod
    def _numbered(i: int, outputs: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
        return {numbered(name, i): value for name, value in outputs.items()}

    def _finish(self, build: GraphBuilder, outputs: Mapping[str, ir.Value]) -> ir.Model:
        return build.finish(outputs, self._weights.__contains__)
