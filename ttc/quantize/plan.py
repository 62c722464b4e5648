"""What is written, tensor by tensor and file by file, before any value is read.

A matrix of an expert becomes the tensors of its format, named by ModelOpt's suffixes; every other tensor is
copied as it is stored. A stack of experts is taken apart. Files are filled in the order of the source.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ttc.base.quantised import PLAIN, WEIGHT_FORMATS, WRITTEN_FORMATS
from ttc.errors import InputError
from ttc.exporter.onnx.checkpoint import Checkpoint
from ttc.formats.shard import TensorInfo
from ttc.formats.shard_layout import NewTensor, ShardLayout
from ttc.model.weights import CONTEXT, DENOISER, tower_of

__all__ = ["MAX_SHARD_BYTES", "Formats", "Piece", "QuantizePlan", "make_plan", "stored_tensors"]

MAX_SHARD_BYTES = 5_000_000_000
_PROJECTIONS = (".mixer.experts.up_proj", ".mixer.experts.down_proj")


@dataclass(frozen=True, slots=True)
class Formats:
    """How the routed experts of each tower are to be stored.

    Attributes:
        context, denoiser: a format, or "plain" to leave a tower as it is.
        four_over_six: how NVFP4 chooses its block scales.
    """

    context: str
    denoiser: str
    four_over_six: bool = True

    def __post_init__(self) -> None:
        for tower, word in ((CONTEXT, self.context), (DENOISER, self.denoiser)):
            if word not in (PLAIN, *WRITTEN_FORMATS):
                raise InputError(
                    f"experts of {tower} in {word!r}; valid: {', '.join((PLAIN, *WRITTEN_FORMATS))}"
                )
        if self.context == self.denoiser == PLAIN:
            raise InputError("experts of both towers in 'plain': there is nothing to quantise")

    def of(self, tower: str) -> str:
        """Return the format of a tower, "context_tower" or "denoiser_tower"."""
        return self.context if tower == CONTEXT else self.denoiser

    @property
    def used(self) -> tuple[str, ...]:
        """The formats that occur, without "plain"."""
        return tuple(word for word in dict.fromkeys((self.context, self.denoiser)) if word != PLAIN)

    def __str__(self) -> str:
        if self.context == self.denoiser:
            return self.context
        return f"{self.context} in the context tower, {self.denoiser} in the denoiser tower"


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of a source file, and the tensors that it becomes.

    Attributes:
        module: the matrix' name, without ".weight"; None: a tensor that is copied.
        format: of the matrix; "plain" for a copy.
        shape: of what lies in the range.
        dtype: numpy's name of it.
        file, begin: where the range begins.
        nbytes: its length.
        outputs: by suffix ("weight", "weight_scale", …; "" for a copy), the codes first.
    """

    module: str | None
    format: str
    shape: tuple[int, ...]
    dtype: str
    file: Path
    begin: int
    nbytes: int
    outputs: Mapping[str, NewTensor]

    @property
    def written_bytes(self) -> int:
        """Bytes of everything that it becomes."""
        return sum(tensor.nbytes for tensor in self.outputs.values())


@dataclass(frozen=True, slots=True)
class QuantizePlan:
    """Everything that is to be done.

    Attributes:
        formats: as asked.
        pieces: in the order of the source.
        files: name → layout.
        file_of: tensor → the file that it goes to.
        source_bytes, tower_bytes: of all tensors in the source; of each tower's in the result.
        expert_bytes: of the routed experts: (in the source, in the result).
    """

    formats: Formats
    pieces: tuple[Piece, ...]
    files: Mapping[str, ShardLayout]
    file_of: Mapping[str, str]
    source_bytes: int
    tower_bytes: Mapping[str, int]
    expert_bytes: tuple[int, int]

    @property
    def total_bytes(self) -> int:
        """Bytes of all files of tensors."""
        return sum(layout.size_bytes for layout in self.files.values())

    @property
    def matrices(self) -> tuple[Piece, ...]:
        """The pieces that are quantised."""
        return tuple(piece for piece in self.pieces if piece.module is not None)


def make_plan(source: Checkpoint, formats: Formats, max_shard_bytes: int = MAX_SHARD_BYTES) -> QuantizePlan:
    """Return what quantising this checkpoint takes.

    Raises:
        InputError: the model has no routed experts, or a matrix cannot be divided into the format's groups.
    """
    pieces = tuple(_pieces(source, formats))
    experts = [piece for piece in pieces if _is_expert(piece)]
    if not any(piece.module is not None for piece in pieces):
        raise InputError(f"{source.folder}: the model has no routed experts; there is nothing to quantise")
    groups = _groups(pieces, max_shard_bytes)
    names = ["model.safetensors"]
    if len(groups) > 1:
        names = [f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
    towers = dict.fromkeys((CONTEXT, DENOISER), 0)
    for piece in pieces:
        for tensor in piece.outputs.values():
            towers[tower_of(tensor.name)] += tensor.nbytes
    return QuantizePlan(
        formats,
        pieces,
        {name: ShardLayout.of(group) for name, group in zip(names, groups, strict=True)},
        {tensor.name: name for name, group in zip(names, groups, strict=True) for tensor in group},
        source.total_bytes,
        towers,
        (sum(piece.nbytes for piece in experts), sum(piece.written_bytes for piece in experts)),
    )


def _pieces(source: Checkpoint, formats: Formats) -> Iterator[Piece]:
    """Yield every tensor of the source, stacks of experts as their matrices, in the order of the files."""
    stacks = _expert_tensors(source)
    for shard in source.shards.values():
        in_order = sorted(shard.tensors.items(), key=lambda item: item[1].begin)
        for name, info in in_order:
            word = formats.of(tower_of(name))
            if name not in stacks or word == PLAIN:
                copy = NewTensor(name, info.dtype, info.shape)
                yield Piece(
                    None, PLAIN, info.shape, info.dtype, shard.path, info.begin, info.nbytes, {"": copy}
                )
                continue
            modules = stacks[name]
            each = info.nbytes // len(modules)
            for i, module in enumerate(modules):
                yield _matrix(module, word, info, shard.path, info.begin + i * each, each)


def _expert_tensors(source: Checkpoint) -> dict[str, tuple[str, ...]]:
    """Return stored tensor → the modules of the matrices in it, for the routed experts."""
    found: dict[str, tuple[str, ...]] = {}
    for name, spec in source.weights.items():
        stack = name.removesuffix(".weight")
        if not stack.endswith(_PROJECTIONS):
            continue
        before, projection = stack.rsplit(".", 1)
        modules = tuple(f"{before}.{expert}.{projection}" for expert in range(spec.shape[0]))
        if len(spec.tensors) == 1:
            found[spec.tensors[0]] = modules
        else:
            found |= {tensor: (module,) for tensor, module in zip(spec.tensors, modules, strict=True)}
    return found


def _matrix(module: str, word: str, info: TensorInfo, file: Path, begin: int, nbytes: int) -> Piece:
    outputs, inputs = info.shape[-2:]
    kind = WEIGHT_FORMATS[word]
    if kind.group and inputs % kind.group:
        raise InputError(
            f"{module}: its {inputs} inputs cannot be divided into the groups of {kind.group} that {word} "
            "has; int8 and fp8 take any number"
        )
    made = stored_tensors(word, module, outputs, inputs)
    return Piece(module, word, (outputs, inputs), info.dtype, file, begin, nbytes, made)


def stored_tensors(word: str, module: str, outputs: int, inputs: int) -> dict[str, NewTensor]:
    """Return by suffix the tensors that `ttc.formats.quantised` makes of a matrix (outputs, inputs)."""
    codes = WEIGHT_FORMATS[word].codes
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        "weight": (codes, (outputs, inputs)),
        "weight_scale": ("float32", (outputs,)),
    }
    if word == "nvfp4":
        found = {
            "weight": ("uint8", (outputs, inputs // 2)),
            "weight_scale": ("float8_e4m3fn", (outputs, inputs // 16)),
            "weight_scale_2": ("float32", ()),
        }
    elif word == "int4":
        found = {
            "weight": ("uint8", (outputs, inputs // 2)),
            "weight_scale": ("bfloat16", (outputs, inputs // 32)),
        }
    return {suffix: NewTensor(f"{module}.{suffix}", *stored) for suffix, stored in found.items()}


def _is_expert(piece: Piece) -> bool:
    return piece.module is not None or any(".mixer.experts." in t.name for t in piece.outputs.values())


def _groups(pieces: tuple[Piece, ...], max_bytes: int) -> list[list[NewTensor]]:
    """Return the tensors file by file; those of a matrix lie in one file."""
    groups: list[list[NewTensor]] = [[]]
    filled = 0
    for piece in pieces:
        if groups[-1] and filled + piece.written_bytes > max_bytes:
            groups.append([])
            filled = 0
        groups[-1] += piece.outputs.values()
        filled += piece.written_bytes
    return groups
