"""A bundle's ONNX file, parsed from bytes that were verified, its external data from files that were.

onnx_ir maps a file of external data by its name when a tensor is first looked at: whatever lies there then.
Here the parsed bytes are those whose digest was taken, and external tensors are read from the file that was
open while its digest was.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ttc.base.files import OpenFile
from ttc.errors import BundleError, MissingDependencyError
from ttc.formats.strictjson import quoted

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["external_bytes", "parse_graph"]

# One graph makes it write a thousand lines at level DEBUG; a level that the host has set stays.
_NOISY = "onnx_ir"


def parse_graph(raw: bytes, path: Path, data: Collection[str]) -> "onnx_ir.Model":
    """Return the graph in `raw`.

    Args:
        raw: the verified bytes of an ONNX file.
        path: of the file.
        data: names of the files that external data may lie in.

    Raises:
        BundleError: it is no ONNX file, or takes data from a file that is not among `data`.
    """
    if logging.getLogger(_NOISY).level == logging.NOTSET:
        logging.getLogger(_NOISY).setLevel(logging.INFO)
    try:
        import onnx
        import onnx_ir as ir
    except ImportError as fault:
        raise MissingDependencyError(
            f"{path}: reading it needs the package {fault.name}; pip install onnx onnx-ir"
        ) from None
    try:
        model = ir.serde.deserialize_model(onnx.ModelProto.FromString(raw))
        ir.external_data.set_base_dir(model.graph, path.parent)
        tensors = _initializers(model.graph)
        graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
        for graph in graphs:
            tensors += _tensors(graph)
    except Exception as fault:  # whatever the library finds wrong in a file
        raise BundleError(f"{path}: not an ONNX file that can be read ({_first_line(fault)})") from None
    for tensor in tensors:
        if isinstance(tensor, ir.ExternalTensor) and str(tensor.location) not in data:
            raise BundleError(
                f"{path}: takes data from {quoted(str(tensor.location))}, which is not among the bundle's "
                "files"
            )
    return model


def external_bytes(tensor: "onnx_ir.ExternalTensor", data: Mapping[str, OpenFile]) -> npt.NDArray[np.uint8]:
    """Return the bytes of an external tensor, read from its verified file.

    Raises:
        BundleError: the file is shorter than it was, or than the tensor needs.
    """
    count = tensor.nbytes
    if tensor.length is not None and tensor.length != count:
        raise BundleError(
            f"tensor {quoted(tensor.name)} is {count} bytes, its external data is said to be {tensor.length}"
        )
    content = np.empty(count, np.uint8)
    data[str(tensor.location)].fill(content.data, tensor.offset or 0)
    return content


def _tensors(graph: "onnx_ir.Graph | onnx_ir.Function") -> "Iterator[onnx_ir.TensorProtocol]":
    """Yield the tensors in nodes of a graph and of its subgraphs, and the initializers of the latter."""
    import onnx_ir as ir

    kinds = ir.AttributeType
    for node in graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type is kinds.TENSOR:
                yield attribute.as_tensor()
            elif attribute.type is kinds.TENSORS:
                yield from attribute.as_tensors()
            elif attribute.type in (kinds.GRAPH, kinds.GRAPHS):
                inner = [attribute.as_graph()] if attribute.type is kinds.GRAPH else attribute.as_graphs()
                for each in inner:
                    yield from _initializers(each)


def _initializers(graph: "onnx_ir.Graph") -> "list[onnx_ir.TensorProtocol]":
    return [value.const_value for value in graph.initializers.values() if value.const_value is not None]


def _first_line(fault: BaseException) -> str:
    lines = str(fault).strip().splitlines()
    return f"{type(fault).__name__}: {lines[0][:200]}" if lines else type(fault).__name__
