"""How quantised matrices lie in checkpoints: which tensors there are beside or in place of `<module>.weight`.

    layout      tensors of a module, N outputs and K inputs
    int8, fp8   weight I8 or F8_E4M3 (N, K); weight_scale (), (1), (N) or (N, 1), any floating dtype
    nvfp4       weight U8 (N, K/2); weight_scale F8_E4M3 (N, K/16); weight_scale_2 F32 () or (1)
    int4        weight U8 (N, K/2); weight_scale (N, K/g), g a multiple of 32
    mxfp4       weight U8 (N, K/2); weight_scale U8 or F8_E8M0 (N, K/32)
    nvfp4-ct    weight_packed U8 (N, K/2); weight_scale F8_E4M3 (N, K/16); weight_global_scale (1), divides
    int4-ct     weight_packed I32 (N, K/8); weight_scale (N, K/g) or (N, 1); weight_shape I64 (2)

The last two are compressed-tensors', the others ModelOpt's. Reading a piece gives it in the form of
`ttc.formats.quantised`, whatever the layout: a scale of the whole matrix as one for each output, and so on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from ttc.base.names import COMPUTE_DTYPES
from ttc.base.quantised import WEIGHT_FORMATS, WeightFormat
from ttc.formats.quantised.codecs import decode
from ttc.formats.quantised.compressed_tensors import from_global_scale, from_packed_int4

__all__ = ["LAYOUTS", "Layout", "Piece", "graph_dtypes", "piece_shapes"]

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


class Described(Protocol):
    """What a shard says of a tensor."""

    @property
    def dtype(self) -> str:
        """Name of its dtype."""

    @property
    def shape(self) -> Shape:
        """As it is stored."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of a module.

    Attributes:
        suffix: its name in `ttc.formats.quantised`.
        stored: its name in the checkpoint, after the module's.
        dtypes: that it may have.
        shapes: the shape that is due (`piece_shapes`) → the shapes that it may be stored in; None: any.
        convert: the tensor and the shape that is due → an array of that shape; packed codes stay packed.
    """

    suffix: str
    stored: str
    dtypes: Sequence[str]
    shapes: Callable[[Shape], list[Shape] | None]
    convert: Callable[[Array, Shape], Array]

    @property
    def is_stored_as_due(self) -> bool:
        """Whether a tensor of the dtype and shape that are due needs no conversion."""
        return self.convert is _as_it_is

    def fits(self, tensor: Described, due: Shape) -> bool:
        """Whether a tensor has a dtype and a shape that this piece may be stored in, where `due` is due."""
        shapes = self.shapes(due)
        return tensor.dtype in self.dtypes and (shapes is None or tensor.shape in shapes)


@dataclass(frozen=True, slots=True)
class Layout:
    """A format as one tool stores it.

    Attributes:
        word: the layout's.
        format: of `ttc.base.quantised`.
        pieces: its tensors, the codes first.
        shape: the tensor that repeats the shape of the matrix, I64 (2), after the module's name; None: none.
    """

    word: str
    format: WeightFormat
    pieces: tuple[Piece, ...]
    shape: str | None = None

    def names(self, module: str) -> tuple[str, ...]:
        """Return the tensors of a module, those that are decoded first."""
        repeated = () if self.shape is None else (self.shape,)
        return tuple(f"{module}.{name}" for name in (*(p.stored for p in self.pieces), *repeated))

    @property
    def graph_pieces(self) -> dict[str, Piece]:
        """The pieces that a graph takes, by suffix; int4 has no second scale, but its ops take one."""
        pieces = {piece.suffix: piece for piece in self.pieces}
        return pieces | ({} if "weight_scale_2" in pieces or self.format.family != "blocked" else _ONE)

    def faults(self, module: str, shape: Shape, stored: Mapping[str, Described]) -> Iterator[str]:
        """Yield what is wrong with the dtypes and shapes of a module's tensors, those that are there.

        Args:
            module: its name.
            shape: (N, K) of the matrix.
            stored: tensor name → what a shard says of it.
        """
        due_shapes = piece_shapes(self.format, shape)
        for piece in self.pieces:
            name = f"{module}.{piece.stored}"
            info = stored.get(name)
            if info is None or piece.fits(info, due_shapes[piece.suffix]):
                continue
            stored_as = piece.shapes(due_shapes[piece.suffix]) or []
            due = f"{' or '.join(piece.dtypes)} {' or '.join(str(list(each)) for each in stored_as)} is due"
            if piece.suffix == "weight_scale" and info.dtype == "uint8" and len(info.shape) == 1:
                yield (
                    f"{name} is 1-D uint8 {list(info.shape)}, a kernel's swizzled order; {due}: export the "
                    "checkpoint again without"
                )
            else:
                yield f"{name} is {info.dtype} {list(info.shape)}; {due}"

    def decode(self, tensors: Sequence[Array], shape: Shape) -> Array:
        """Return the matrix float32 (N, K) of the module's tensors, in the order of `pieces`.

        Raises:
            NumericsError: a weight comes out as NaN or infinite.
        """
        due = piece_shapes(self.format, shape)
        arrays = {
            piece.suffix: piece.convert(tensor, due[piece.suffix])
            for piece, tensor in zip(self.pieces, tensors, strict=True)
        }
        return decode(self.format.word, arrays)


def graph_dtypes(kind: WeightFormat) -> dict[str, str | None]:
    """Return the dtypes of codes, scales and second scale in a graph, by suffix; None: the compute dtype."""
    return {"weight": kind.codes, "weight_scale": kind.scales, "weight_scale_2": "float32"}


def piece_shapes(kind: WeightFormat, shape: Shape) -> dict[str, Shape]:
    """Return the shapes of codes, scales and second scale, by suffix, of a matrix (N, K)."""
    outputs, inputs = shape
    scale = (outputs, inputs // kind.group) if kind.group else (outputs,)
    return {"weight": shape, "weight_scale": scale, "weight_scale_2": ()}


def _as_it_is(tensor: Array, shape: Shape) -> Array:
    return tensor


def _spread(tensor: Array, shape: Shape) -> Array:
    """A scale for each output or group, of fewer that count for several."""
    if len(shape) == 1:
        return np.broadcast_to(tensor.reshape(-1), shape)
    return np.repeat(tensor, shape[1] // tensor.shape[1], axis=1)


def _whole(dtypes: Sequence[str]) -> Piece:
    return Piece("weight", "weight", dtypes, lambda due: [due], _as_it_is)


def _packed(stored: str) -> Piece:
    return Piece("weight", stored, ("uint8",), lambda due: [_fewer(due, 2)], _as_it_is)


def _blocks(dtypes: Sequence[str]) -> Piece:
    return Piece("weight_scale", "weight_scale", dtypes, lambda due: [due], _as_it_is)


def _fewer(shape: Shape, times: int) -> Shape:
    return (*shape[:-1], shape[-1] // times)


_PER_OUTPUT = Piece(
    "weight_scale", "weight_scale", COMPUTE_DTYPES, lambda due: [due, (*due, 1), (1,), ()], _spread
)
_GROUPS = Piece(
    "weight_scale",
    "weight_scale",
    COMPUTE_DTYPES,
    lambda due: [_fewer(due, times) for times in _divisors(due[-1])],
    _spread,
)
_SCALE_2 = Piece(
    "weight_scale_2",
    "weight_scale_2",
    ("float32",),
    lambda due: [(), (1,)],
    lambda tensor, shape: tensor.reshape(shape),
)
_GLOBAL_SCALE = Piece(
    "weight_scale_2",
    "weight_global_scale",
    ("float32",),
    lambda due: [(1,), ()],
    lambda tensor, shape: from_global_scale(tensor),
)
# Of int4, for the ops that take a second scale: nothing is stored of it.
_ONE: Final = {
    "weight_scale_2": replace(
        _GROUPS,
        suffix="weight_scale_2",
        shapes=lambda due: None,
        convert=lambda tensor, shape: np.ones(shape, np.float32),
    )
}
_PACKED_INT32 = Piece(
    "weight",
    "weight_packed",
    ("int32",),
    lambda due: [_fewer(due, 8)],
    lambda tensor, shape: from_packed_int4(tensor),
)


def _divisors(number: int) -> list[int]:
    """All divisors, the least first."""
    return [each for each in range(1, number + 1) if number % each == 0]


def _layout(word: str, kind: str, *pieces: Piece, shape: str | None = None) -> Layout:
    return Layout(word, WEIGHT_FORMATS[kind], pieces, shape)


_ALL: Final = (
    _layout("int8", "int8", _whole(("int8",)), _PER_OUTPUT),
    _layout("fp8", "fp8", _whole(("float8_e4m3fn",)), _PER_OUTPUT),
    _layout("nvfp4", "nvfp4", _packed("weight"), _blocks(("float8_e4m3fn",)), _SCALE_2),
    _layout("int4", "int4", _packed("weight"), _GROUPS),
    _layout("mxfp4", "mxfp4", _packed("weight"), _blocks(("uint8", "float8_e8m0fnu"))),
    _layout("nvfp4-ct", "nvfp4", _packed("weight_packed"), _blocks(("float8_e4m3fn",)), _GLOBAL_SCALE),
    _layout("int4-ct", "int4", _PACKED_INT32, _GROUPS, shape="weight_shape"),
)
LAYOUTS: Final[Mapping[str, Layout]] = {layout.word: layout for layout in _ALL}
