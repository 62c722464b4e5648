"""Where a bundle's weights come from: the referenced checkpoint files, or the initializers of the packed
graphs.

Of four-bit weights an array holds the bytes, two numbers in each (`WeightSpec.array_shape`).
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ttc.base.dtypes import array_dtype, array_shape, numpy_dtype, stored_bytes
from ttc.base.files import OpenFile
from ttc.errors import BundleError, DigestError, NumericsError
from ttc.formats.graph_file import external_bytes
from ttc.formats.manifest import ShardRecord, WeightMap, WeightSpec
from ttc.formats.quantised.layouts import LAYOUTS, Piece, piece_shapes
from ttc.formats.quantised.measures import all_numbers
from ttc.formats.shard import Array, Shard
from ttc.formats.strictjson import quoted
from ttc.formats.weight_readers import ConvertedPart, PartReader, StoredPart

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["PackedWeights", "ReferencedWeights"]

# From the narrowest range to the widest; a value may only be lost on the way down.
_RANGE = {"float16": 0, "bfloat16": 1, "float32": 1, "float64": 2}


class ReferencedWeights:
    """Weights read from the shards of a checkpoint, each shard checked to be the one that was exported."""

    def __init__(self, weights: WeightMap, root: Path | None, where: str) -> None:
        """Open and check the shards.

        Args:
            weights: of the manifest.
            root: where the checkpoint lies now; None: where it lay at export.
            where: the manifest's name in messages.

        Raises:
            BundleError: the checkpoint or one of its tensors is not there, or does not fit.
            DigestError: a shard is not the one that was exported.
        """
        self._shards: list[Shard] = []
        self.root = Path(str(weights.root)) if root is None else root
        if not self.root.is_dir():
            raise BundleError(
                f"{self.root}: no such folder, but {where} takes its weights from there; "
                "say where it is now with checkpoint= (--checkpoint), or export again"
            )
        try:
            for name, record in weights.shards.items():
                self._shards.append(_shard(self.root / name, record, moved=root is not None))
            self._owner = {name: shard for shard in self._shards for name in shard.tensors}
            for spec in weights.map.values():
                self._check(spec)
        except BaseException:
            self.close()
            raise

    def _check(self, spec: WeightSpec) -> None:
        pieces = _pieces(spec)
        for i, tensor in enumerate(spec.tensors):
            if tensor not in self._owner:
                raise BundleError(
                    f"{self.root}: no tensor {quoted(tensor)} there, "
                    f"but the weight {quoted(spec.name)} needs it"
                )
            info = self._owner[tensor].tensors[tensor]
            fits = info.shape == spec.part_shape and info.dtype in _RANGE
            if pieces:
                piece, due = pieces[i % len(pieces)]
                fits = piece.fits(info, due)
            if not fits:
                raise BundleError(
                    f"{self._owner[tensor].path}: tensor {quoted(tensor)} is {info.dtype} "
                    f"{list(info.shape)}, which does not fit the weight {quoted(spec.name)} "
                    f"{list(spec.shape)}"
                )

    def read(self, spec: WeightSpec) -> Array:
        """Return what `Bundle.read_weight` does."""
        if not spec.stacked:
            return self._part(spec, spec.parts[0])
        made = np.empty(spec.array_shape, numpy_dtype(spec.array_dtype))
        for i, tensors in enumerate(spec.parts):
            self._part(spec, tensors, out=made[i, ...])
        made.flags.writeable = False
        return made

    def parts(self, spec: WeightSpec) -> Iterator[Array]:
        """Return what `Bundle.weight_parts` does."""
        return (self._part(spec, tensors) for tensors in spec.parts)

    def readers(self, spec: WeightSpec) -> Iterator[PartReader]:
        """Return what `Bundle.weight_readers` does."""
        dtype = numpy_dtype(spec.array_dtype)
        pieces = _pieces(spec)
        for tensors in spec.parts:
            stored = self._owner[tensors[0]].info(tensors[0])
            is_as_due = stored.dtype == dtype.name and (
                pieces[0][0].is_stored_as_due and dtype.kind in "iu" if spec.piece else not spec.layout
            )
            if is_as_due:
                yield StoredPart(self._owner[tensors[0]], tensors[0])
            else:
                yield ConvertedPart(
                    partial(self._part, spec, tensors), stored_bytes(spec.dtype, spec.part_shape)
                )

    def _part(self, spec: WeightSpec, tensors: Sequence[str], out: Array | None = None) -> Array:
        """Return one part of a weight in the weight's dtype, written to `out` if that is given."""
        stored = self._stored(spec, tensors)
        dtype = numpy_dtype(spec.array_dtype)
        if out is None and stored.dtype == dtype and stored.flags.aligned and stored.flags.c_contiguous:
            return stored
        made = np.empty(stored.shape, dtype) if out is None else out
        _convert(stored, made, spec.name, tensors[0])
        if out is None:
            made.flags.writeable = False
        return made

    def _stored(self, spec: WeightSpec, tensors: Sequence[str]) -> Array:
        """Return a part as it is stored, decoded where the graphs want it so; of any floating dtype."""
        arrays = [self._owner[tensor].read(tensor) for tensor in tensors]
        if not spec.layout:
            return arrays[0]
        layout = LAYOUTS[spec.layout]
        if spec.piece:
            piece = layout.graph_pieces[spec.piece].convert(arrays[0], spec.part_shape)
            if not all_numbers(piece):
                at = ", ".join(
                    f"{axis} {i}"
                    for axis, i in zip(
                        ("row", "column"),
                        np.argwhere(~np.isfinite(piece.astype(np.float32)))[0],
                        strict=False,
                    )
                )
                where = f" at {at}" if at else ""
                raise NumericsError(
                    f"tensor {quoted(tensors[0])} of {self.root} is NaN or infinite{where}; quantise the "
                    "plain checkpoint again"
                )
            return piece
        try:
            return layout.decode(arrays, spec.part_shape)
        except NumericsError as fault:
            raise NumericsError(f"tensor {quoted(tensors[0])} of {self.root}: {fault}") from None

    def close(self) -> None:
        """Close the shards."""
        for shard in self._shards:
            shard.close()


class PackedWeights:
    """Weights read from the initializers of a bundle's graphs.

    A graph file is parsed when a weight of it is first read, and then kept.
    """

    def __init__(
        self,
        graphs: Mapping[str, Path],
        parse: "Callable[[str], onnx_ir.Model]",
        data: Mapping[str, OpenFile],
    ) -> None:
        """Remember where graphs come from.

        Args:
            graphs: role → ONNX file.
            parse: role → its verified graph.
            data: name → verified file of external data.
        """
        self._graphs, self._parse, self._data = dict(graphs), parse, data
        self._parsed: dict[str, Mapping[str, onnx_ir.Value]] = {}
        self._lock = threading.Lock()

    def read(self, spec: WeightSpec) -> Array:
        """Return what `Bundle.read_weight` does."""
        name, role = spec.name, spec.graphs[0]
        path = self._graphs[role]
        with self._lock:
            if role not in self._parsed:
                self._parsed[role] = self._parse(role).graph.initializers
            value = self._parsed[role].get(name)
        tensor = None if value is None else value.const_value
        if tensor is None:
            raise BundleError(
                f"{path}: no initializer {quoted(name)}, though the bundle's weights are packed"
            )
        try:
            array = np.require(self._array(tensor, spec), requirements=["C", "ALIGNED"])
        except BundleError as fault:
            raise BundleError(f"{path}: {fault}") from None
        except Exception as fault:  # whatever the library finds wrong in a graph file
            raise BundleError(f"{path}: initializer {quoted(name)} cannot be read ({fault})") from None
        if array.shape != spec.array_shape or array.dtype != numpy_dtype(spec.array_dtype):
            raise BundleError(
                f"{path}: initializer {quoted(name)} is {array.dtype} {list(array.shape)}, "
                f"the manifest says {spec.dtype} {list(spec.shape)}"
            )
        array.flags.writeable = False
        return array

    def _array(self, tensor: "onnx_ir.TensorProtocol", spec: WeightSpec) -> Array:
        """Return the content of an initializer; of four-bit numbers, the bytes."""
        import onnx_ir

        shape = tuple(tensor.shape.numpy())
        if isinstance(tensor, onnx_ir.ExternalTensor):
            own = array_dtype(tensor.dtype.numpy().name)
            content = external_bytes(tensor, self._data).view(numpy_dtype(own))
            return content.reshape(array_shape(tensor.dtype.numpy().name, shape))
        if spec.array_dtype == spec.dtype or shape != spec.shape:
            return tensor.numpy()
        return np.frombuffer(tensor.tobytes(), np.uint8).reshape(spec.array_shape)

    def parts(self, spec: WeightSpec) -> Iterator[Array]:
        """Return what `Bundle.weight_parts` does."""
        array = self.read(spec)
        yield from (array[i, ...] for i in range(spec.shape[0])) if spec.stacked else (array,)

    def readers(self, spec: WeightSpec) -> Iterator[PartReader]:
        """Return what `Bundle.weight_readers` does."""
        return (ConvertedPart(partial(np.asarray, part), part.nbytes) for part in self.parts(spec))

    def close(self) -> None:
        """Forget the parsed graphs."""
        with self._lock:
            self._parsed.clear()


def _pieces(spec: WeightSpec) -> list[tuple[Piece, tuple[int, ...]]]:
    """The pieces of a layout that each part of a weight is made of, and their shapes; none of a plain one."""
    if not spec.layout:
        return []
    layout = LAYOUTS[spec.layout]
    if spec.piece:
        return [(layout.graph_pieces[spec.piece], spec.part_shape)]
    due = piece_shapes(layout.format, spec.part_shape)
    return [(piece, due[piece.suffix]) for piece in layout.pieces]


def _shard(path: Path, record: ShardRecord, moved: bool) -> Shard:
    shard = Shard.open(path, error=BundleError)
    found = ShardRecord.of(shard)
    what = None
    if found.size_bytes != record.size_bytes:
        what = f"it has {found.size_bytes} bytes, {record.size_bytes} when it was exported"
    elif found.header_sha256 != record.header_sha256:
        what = "its header (names, shapes and places of its tensors) is not the one that was exported"
    elif found.mtime_ns != record.mtime_ns and not moved:
        what = (
            "it was written to or touched since it was exported (size and header are as they were; "
            "whether the weights are is "
            "unknown); if it is a faithful copy, name its folder with checkpoint= (--checkpoint)"
        )
    if what is not None:
        shard.close()
        raise DigestError(
            f"{path}: not the file that the bundle was made from: {what}; otherwise export again"
        )
    return shard


def _convert(source: Array, target: Array, weight: str, tensor: str) -> None:
    """Fill `target` with `source` in its dtype; a finite value that becomes infinite is a `NumericsError`."""
    with np.errstate(over="ignore"):
        np.copyto(target, source, casting="unsafe")
    if _RANGE.get(target.dtype.name, 2) < _RANGE.get(source.dtype.name, 0) and not np.array_equal(
        np.isfinite(source), np.isfinite(target)
    ):
        raise NumericsError(
            f"weight {quoted(weight)}: a value of tensor {quoted(tensor)} is too large for "
            f"{target.dtype.name}; "
            "export with --dtype bfloat16 or float32"
        )
