"""Rewriting of a loaded graph: new nodes beside old ones, under names that tell where they come from."""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["MICROSOFT", "Nodes", "Rewriter", "fixed_dims"]

# The domain of ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"


class Rewriter:
    """Changes one graph: keeps its constants once, and numbers its new nodes.

    Attributes:
        graph: the graph.
    """

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self._count = itertools.count()
        self._names = (f"constant.ort.{number}" for number in itertools.count())
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def before(self, node: ir.Node, op: str | None = None) -> "Nodes":
        """Return what adds nodes before this one, in its scope; `op` names what they stand for, by default
        the node's own operator.
        """
        return Nodes(self, node, op or node.op_type)

    def constant(self, values: npt.NDArray[np.generic]) -> ir.Value:
        """Return an initializer with this content."""
        key = str(values.dtype), values.shape, values.tobytes()
        if key not in self._constants:
            name = next(n for n in self._names if n not in self.graph.initializers)
            tensor = ir.tensor(values, name=name)
            self._constants[key] = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(values.shape), const_value=tensor
            )
            self.graph.register_initializer(self._constants[key])
        return self._constants[key]

    def number(self) -> int:
        """Return a number that no other new node has."""
        return next(self._count)

    def replace(self, node: ir.Node, values: Sequence[ir.Value | None]) -> None:
        """Put values in place of a node's outputs, under their names, and remove the node. None stands for an
        output that nobody reads.
        """
        for old, new in zip(node.outputs, values, strict=True):
            if new is not None:
                take_over(old, new)
        self.graph.remove(node, safe=True)


class Nodes:
    """Adds nodes before a given one."""

    def __init__(self, rewriter: Rewriter, before: ir.Node, op: str) -> None:
        self._rewriter, self._before = rewriter, before
        self._scope = f"{(before.name or 'other').split('/', 1)[0]}/{op}"

    def add(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        domain: str = "",
        **attributes: int | float | str | Sequence[int],
    ) -> ir.Value:
        """Add a node with one output; return that."""
        return self.add_many(op, inputs, 1, domain, **attributes)[0]

    def add_many(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        outputs: int,
        domain: str = "",
        **attributes: int | float | str | Sequence[int],
    ) -> Sequence[ir.Value]:
        """Add a node with several outputs; return them."""
        name = f"{self._scope}/{op}_{self._rewriter.number()}"
        given = [ir.convenience.convert_attribute(key, value) for key, value in attributes.items()]
        node = ir.Node(domain, op, inputs, given, num_outputs=outputs, name=name)
        for i, value in enumerate(node.outputs):
            value.name = f"{name}:{i}"
        self._rewriter.graph.insert_before(self._before, node)
        return node.outputs

    def ints(self, *values: int) -> ir.Value:
        """Return a constant list of integers."""
        return self._rewriter.constant(np.array(values, np.int64))

    def scalar(self, value: float) -> ir.Value:
        """Return a constant float32."""
        return self._rewriter.constant(np.array(value, np.float32))


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let everybody who reads `old`, the graph's outputs among them, read `new`, under the old name."""
    new.name, new.type, new.shape = old.name, old.type, old.shape
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    old.name = f"{old.name}:old"


def fixed_dims(value: ir.Value | None) -> list[int]:
    """Return the dimensions that are numbers, in order; of a weight these are all."""
    assert value is not None, "an op with all its inputs"
    assert value.shape is not None, f"{value.name} has no shape"
    return [dim for dim in value.shape if isinstance(dim, int)]
