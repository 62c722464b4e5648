"""The denoiser's modulation: shift, scale and gate of all layers worked out at once."""

import numpy as np
import onnx_ir as ir

from ttc.runtime.backends.onnxruntime.native.mixture import mixed
from ttc.runtime.backends.onnxruntime.native.norms import rms_norm
from ttc.runtime.backends.onnxruntime.native.rewriting import Rewriter, fixed_dims

__all__ = ["Modulation"]


class Modulation:
    """Replaces the ops of the denoiser's residual stream."""

    def __init__(self) -> None:
        self._of_table: dict[str, tuple[ir.Value, ir.Value, ir.Value]] = {}

    def modulated_norm(self, rewriter: Rewriter, node: ir.Node) -> None:
        """Replace `ModulatedNorm`."""
        x, modulation, t, table, weight = node.inputs
        shift, factor, _ = self._of(rewriter, node, modulation, t, table)
        made = rewriter.before(node)
        modulated = made.add("Add", [made.add("Mul", [x, factor]), shift])
        rewriter.replace(node, [rms_norm(rewriter, node, modulated, weight)])

    def norm_modulated(self, rewriter: Rewriter, node: ir.Node) -> None:
        """Replace `NormModulated`."""
        x, modulation, t, table, weight = node.inputs
        shift, factor, _ = self._of(rewriter, node, modulation, t, table)
        normed = rms_norm(rewriter, node, x, weight)
        made = rewriter.before(node)
        rewriter.replace(node, [made.add("Add", [made.add("Mul", [normed, factor]), shift])])

    def gated_residual(self, rewriter: Rewriter, node: ir.Node) -> None:
        """Replace `GatedResidual`."""
        x, out, modulation, t, table = node.inputs
        self._gate(rewriter, node, x, out, self._of(rewriter, node, modulation, t, table)[2])

    def gated_mixture_residual(self, rewriter: Rewriter, node: ir.Node) -> None:
        """Replace `GatedMixtureResidual`."""
        x, routed, shared, modulation, t, table = node.inputs
        gate = self._of(rewriter, node, modulation, t, table)[2]
        self._gate(rewriter, node, x, mixed(rewriter, node, routed, shared), gate)

    @staticmethod
    def _gate(
        rewriter: Rewriter, node: ir.Node, x: ir.Value | None, out: ir.Value | None, gate: ir.Value
    ) -> None:
        made = rewriter.before(node)
        gated = made.add("Mul", [out, gate])
        assert x is not None, "an op with all its inputs"
        gated.shape, gated.type = x.shape, x.type
        rewriter.replace(node, [made.add("Add", [x, gated])])

    def _of(
        self,
        rewriter: Rewriter,
        node: ir.Node,
        modulation: ir.Value | None,
        t: ir.Value | None,
        table: ir.Value | None,
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Return shift, 1 + scale and gate (B, 1, D) of the layer with this table; of all at the first call,
        which is that of the first op that needs them.
        """
        assert table is not None, "an op with all its inputs"
        if not self._of_table:
            self._make(rewriter, node, modulation, t)
        return self._of_table[str(table.name)]

    def _make(
        self, rewriter: Rewriter, node: ir.Node, modulation: ir.Value | None, t: ir.Value | None
    ) -> None:
        tables = list(
            dict.fromkeys(
                value
                for each in rewriter.graph
                for value in each.inputs
                if value is not None and str(value.name).startswith("scale_shift_tables.")
            )
        )
        count, width = len(tables), fixed_dims(tables[0])[-1]
        made = rewriter.before(node)
        one_more = rewriter.constant(np.array([[[0.0]], [[1.0]], [[0.0]]], np.float32).reshape(3, 1))
        together = made.add("Concat", tables, axis=0)
        together = made.add("Reshape", [together, made.ints(count, 3, width)])
        together = made.add("Add", [together, one_more])
        own = made.add("Add", [made.add("Unsqueeze", [modulation, made.ints(1)]), together])
        conditioned = made.add("GreaterOrEqual", [t, made.scalar(0.0)])
        conditioned = made.add("Unsqueeze", [conditioned, made.ints(1, 2, 3)])
        neutral = rewriter.constant(np.array([[0.0], [1.0], [1.0]], np.float32))
        chosen = made.add("Where", [conditioned, own, neutral])
        flat = made.add("Reshape", [chosen, made.ints(0, -1, width)])
        parts = made.add_many("Split", [flat], 3 * count, axis=1, num_outputs=3 * count)
        self._of_table = {
            str(table.name): (parts[3 * i], parts[3 * i + 1], parts[3 * i + 2])
            for i, table in enumerate(tables)
        }
