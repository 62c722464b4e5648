"""The model's four ONNX graphs: context, denoiser, step, advance.

Weights are graph inputs named as in the checkpoint (expert stacks as `….experts.up_proj.weight`); the pass
`pack_weights` turns them into initializers where a bundle is packed. Everything else that goes in and out,
with B, L, C, R dynamic:

    context     input_ids (B, L), lengths (B), commit_len (B), logit_positions (B, R) int32, state
                → logits (B, R, V) float32, new state, saved block inputs
    denoiser    block_ids (B, L) int32, t (B) float32, lengths (B) int32, state → logits (B, L, V) float32
    step        logits, block_ids, threshold, temperature, row_key, position, step, steps_left
                → next_block_ids, predicted_ids, confidence, masked_count, t
    advance     saved block inputs, commit_len, Mamba state → new Mamba state

State of layer i: conv_state.i (B, F, W−1) and ssm_state.i (B, H, P, N) float32 for Mamba, k_cache.i and
v_cache.i (B, KV heads, C, head dim) for attention; as outputs with the prefix `new_`. Saved block inputs:
saved_xbc.i (B, L, F), saved_dt.i (B, L, H). The caller keeps lengths + L ≤ C; of the L keys and values
written, lengths + commit_len count.
"""

from collections.abc import Callable, Mapping

import onnx_ir as ir

from ttc.exporter.onnx import pieces as stages
from ttc.exporter.onnx.graph_builder import GraphBuilder
from ttc.exporter.onnx.pieces import Stage, WeightShapes
from ttc.exporter.onnx.tracing import trace
from ttc.model import towers
from ttc.model.config import ModelConfig
from ttc.model.towers import CONTEXT, DENOISER

__all__ = ["GraphMaker"]

_SCOPES: Mapping[str, str] = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}


class GraphMaker:
    """Makes the graphs of one model. Stages with equal keys are traced once.

    Args:
        config: the model.
        weights: graph weight name → (dtype name in the graph, shape).
        dtype: name of the compute dtype.
        progress: called with what is about to be traced.
    """

    def __init__(
        self, config: ModelConfig, weights: WeightShapes, dtype: str, progress: Callable[[str], None]
    ) -> None:
        self._config, self._weights, self._dtype, self._progress = config, weights, dtype, progress
        self._layer_names = {
            tower: towers.layer_weight_names(config, tower, weights) for tower in (CONTEXT, DENOISER)
        }
        self._templates: dict[str, ir.Graph] = {}

    def make(self, role: str) -> ir.Model:
        """The graph of one role, without function bodies."""
        makers = {
            "context": self._context,
            "denoiser": self._denoiser,
            "step": self._step,
            "advance": self._advance,
        }
        return makers[role]()

    def _context(self) -> ir.Model:
        config, build = self._config, GraphBuilder("context")
        x = self._stamp(build, self._embed("input_ids"), "embedding", table=f"{CONTEXT}.embeddings.weight")[
            "x"
        ]
        outputs: dict[str, ir.Value] = {}
        for i in range(config.num_layers):
            x, layer_outputs = self._layer(build, CONTEXT, i, {"x": x})
            outputs |= layer_outputs
        logits = self._head(build, CONTEXT, x)
        # New state first: saved inputs are only for those who commit afterwards.
        ordered = sorted(outputs, key=lambda name: name.startswith("saved_"))
        return self._finish(build, {"logits": logits} | {name: outputs[name] for name in ordered})

    def _denoiser(self) -> ir.Model:
        config, build = self._config, GraphBuilder("denoiser")
        x = self._stamp(build, self._embed("block_ids"), "embedding", table=f"{DENOISER}.embeddings.weight")[
            "x"
        ]
        time = stages.time_stage(config, self._dtype, self._weights)
        modulation = self._stamp(build, time, "time")["modulation"]
        for i in range(config.num_layers):
            x, _ = self._layer(build, DENOISER, i, {"x": x, "modulation": modulation})
        return self._finish(build, {"logits": self._head(build, DENOISER, x)})

    def _step(self) -> ir.Model:
        build = GraphBuilder("step")
        return self._finish(build, self._stamp(build, stages.step_stage(self._config), "step"))

    def _advance(self) -> ir.Model:
        config, build = self._config, GraphBuilder("advance")
        outputs: dict[str, ir.Value] = {}
        for i, kind in enumerate(config.pattern):
            if kind == "M":
                stage = stages.advance_stage(config, self._dtype, self._layer_weights(CONTEXT, i))
                outputs |= self._numbered(i, self._stamp_layer(build, stage, CONTEXT, i, {}))
        return self._finish(build, outputs)

    # Pieces.

    def _embed(self, ids: str) -> Stage:
        return stages.embed_stage(self._config, self._dtype, ids)

    def _layer(
        self, build: GraphBuilder, tower: str, i: int, bound: Mapping[str, ir.Value]
    ) -> tuple[ir.Value, dict[str, ir.Value]]:
        """Stamp layer i; its x, and its other outputs under names that carry the layer number."""
        weights = self._layer_weights(tower, i)
        stage = stages.layer_stage(self._config, self._dtype, weights, tower, self._config.pattern[i])
        outputs = self._stamp_layer(build, stage, tower, i, bound)
        x = outputs.pop("x")
        return x, self._numbered(i, outputs)

    def _head(self, build: GraphBuilder, tower: str, x: ir.Value) -> ir.Value:
        stage = stages.head_stage(self._config, self._dtype, tower)
        names = {"norm": f"{tower}.norm_f.weight", "head": towers.HEADS[tower]}
        return self._stamp(build, stage, "head", {"x": x}, **names)["logits"]

    def _stamp_layer(
        self, build: GraphBuilder, stage: Stage, tower: str, i: int, bound: Mapping[str, ir.Value]
    ) -> dict[str, ir.Value]:
        kind = self._config.pattern[i]
        state = (arg.name for arg in stages.state_arguments(self._config, self._dtype, kind))
        saved = ("saved_xbc", "saved_dt")
        names = {name: f"{name}.{i}" for name in (*state, *saved)}
        names |= self._layer_names[tower][i]
        return self._stamp(build, stage, f"layers.{i}.{_SCOPES[kind]}", bound, **names)

    def _stamp(
        self,
        build: GraphBuilder,
        stage: Stage,
        scope: str,
        bound: Mapping[str, ir.Value] | None = None,
        **names: str,
    ) -> dict[str, ir.Value]:
        if stage.key not in self._templates:
            self._progress(stage.key)
            self._templates[stage.key] = trace(stage.run, stage.arguments)
        return build.stamp(self._templates[stage.key], scope, bound or {}, names)

    def _layer_weights(self, tower: str, i: int) -> WeightShapes:
        return {inside: self._weights[name] for inside, name in self._layer_names[tower][i].items()}

    @staticmethod
    def _numbered(i: int, outputs: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
        return {f"{name}.{i}": value for name, value in outputs.items()}

    def _finish(self, build: GraphBuilder, outputs: Mapping[str, ir.Value]) -> ir.Model:
        return build.finish(outputs, self._weights.__contains__)
