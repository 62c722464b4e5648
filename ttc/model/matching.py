"""The weights of a model found among the tensors of a checkpoint, plain or quantised; every difference told.

A matrix `<module>.weight` may be stored quantised, in a layout of `ttc.formats.quantised.layouts`; which one,
the checkpoint's configuration files say. The experts of a layer are then taken by the graphs as they are
stored, codes and scales, where there is an op for their format. Other matrices are decoded while they are
read.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ttc.base.quantised import WeightFormat
from ttc.errors import CheckpointError
from ttc.formats.manifest import WeightSpec
from ttc.formats.quant_config.scheme import Scheme
from ttc.formats.quantised.layouts import LAYOUTS, Layout, graph_dtypes, piece_shapes
from ttc.formats.shard import TensorInfo
from ttc.model.config import ModelConfig
from ttc.model.graphs import COMPUTE
from ttc.model.weights import CONTEXT, DENOISER, HEADS, Shape, first_of, model_weights, tower_of

__all__ = ["Matched", "match_weights"]

_FLOATING: Final = ("float16", "bfloat16", "float32", "float64")
# Scales of activations and of caches, after the name of a module: weights alone need none of them.
_INPUT_SCALES = ("input_scale", "input_global_scale")
_CACHE_SCALES = ("k_scale", "v_scale", "k_proj.k_scale", "v_proj.v_scale")

_QUANTISE: Final = "quantise the plain checkpoint with `ttc quantize`"
# Ends of tensors of quantisers that are not read.
_FOREIGN: Mapping[str, str] = {
    ".pre_quant_scale": f"AWQ's scale of activations, which weights alone cannot honour; {_QUANTISE}",
    ".g_idx": f"GPTQ's order of inputs; {_QUANTISE}",
    ".weight_g_idx": f"GPTQ's order of inputs; {_QUANTISE}",
    ".qzeros": f"zero points of GPTQ or AutoAWQ; convert it with compressed-tensors, or {_QUANTISE}",
    ".weight_zero_point": f"zero points, which are not read; {_QUANTISE}",
    ".weight_scale_inv": f"scales for blocks of two dimensions, which are not read; {_QUANTISE}",
}


_MISSING, _UNEXPECTED, _MISSHAPEN = "missing", "unexpected", "misshapen"
_NOT_FLOATING = "of a dtype that is not floating (or needs scales)"
_MIXED_DTYPES, _MISPLACED = "expert stacks of mixed dtypes", "not where the index says"
# Kinds of defects in the order in which they are told; those of quantised tensors follow.
_DEFECTS = (_MISSING, _UNEXPECTED, _MISSHAPEN, _NOT_FLOATING, _MIXED_DTYPES, _MISPLACED)


@dataclass(frozen=True, slots=True)
class Matched:
    """What was found.

    Attributes:
        weights: name → weight of the graphs, context tower first.
        matrices: the same where codes and scales are not weights of their own: every quantised matrix is one
            weight, and decoded.
        decoded: those of them that are quantised experts without an op that takes them so.
        unused: tensors that are there, and known, and not needed.
        shapes: tensors that repeat the shape of a matrix, I64 (2) → that shape.
    """

    weights: Mapping[str, WeightSpec]
    matrices: Mapping[str, WeightSpec]
    decoded: tuple[str, ...]
    unused: tuple[str, ...]
    shapes: Mapping[str, Shape]


def match_weights(
    config: ModelConfig,
    stored: Mapping[str, TensorInfo],
    misplaced: list[str],
    where: str,
    scheme: Scheme | None = None,
) -> Matched:
    """Return every weight of the graphs as this checkpoint holds it.

    Args:
        config: the checkpoint's.
        stored: tensor name → what the shards say of it.
        misplaced: what the index got wrong, a text each.
        where: the checkpoint's name in messages.
        scheme: what the checkpoint's files say is quantised; None: nothing.

    Raises:
        CheckpointError: tensors are missing, unexpected, misshapen, of a wrong dtype, misplaced, or quantised
            otherwise than the files say. One error tells all differences: how many, and the first five.
    """
    _refuse_foreign(stored, where)
    found = _Search(stored, scheme)
    matrices = {spec.name: found.as_stored(spec) for spec in model_weights(config).values()}
    for name in stored:
        if name not in found.expected:
            found.tell(_UNEXPECTED, name)
    for text in misplaced:
        found.tell(_MISPLACED, text)
    if any(found.defects.values()):
        told = [f"{len(names)} {kind}: {first_of(names)}" for kind, names in found.defects.items() if names]
        raise CheckpointError(f"{where}: its tensors do not fit its config.json; " + "; ".join(told))
    taken = _taken_as_stored(matrices)
    weights = {
        spec.name: spec
        for name, each in matrices.items()
        for spec in (_codes_and_scales(each) if name in taken else [each])
    }
    decoded = tuple(name for name, spec in weights.items() if spec.layout and not spec.piece and spec.stacked)
    return Matched(
        weights, matrices, decoded, tuple(name for name in stored if name in found.unused), found.shapes
    )


class _Search:
    """Goes through the weights of a model, and collects what is expected and what is wrong.

    Attributes:
        expected: names of all tensors that may be there.
        unused: those of them that are not needed.
        shapes: those of them that repeat the shape of a matrix, and that shape.
        defects: what is wrong, by kind.
    """

    def __init__(self, stored: Mapping[str, TensorInfo], scheme: Scheme | None) -> None:
        self._stored, self._scheme = stored, scheme
        self.expected: set[str] = set()
        self.unused: set[str] = set()
        self.shapes: dict[str, Shape] = {}
        self.defects: dict[str, list[str]] = {kind: [] for kind in _DEFECTS}

    def as_stored(self, spec: WeightSpec) -> WeightSpec:
        """Return the weight made of the tensors that there are."""
        whole = [name for name in (spec.name, spec.name.removesuffix(".weight")) if name in self._stored]
        if spec.stacked and whole:
            spec = replace(spec, tensors=(whole[0],), stacked=False)
        self._allow_cache_scales(spec.name)
        is_matrix = len(spec.part_shape) == 2
        layouts = [self._layout_of(tensor) if is_matrix else None for tensor in spec.tensors]
        if len(set(layouts)) > 1:
            self.tell("expert stacks of mixed formats", spec.name)
        for tensor, word in zip(spec.tensors, layouts, strict=True):
            if word is None:
                self._check_plain(tensor, spec.part_shape)
            else:
                self._check_quantised(_module(tensor), LAYOUTS[word], spec.part_shape)
        dtypes = {self._stored[name].dtype for name in spec.tensors if name in self._stored}
        if layouts[0] is None and len(dtypes) > 1:
            self.tell(_MIXED_DTYPES, spec.name)
        return spec if layouts[0] is None else _decoded(spec, LAYOUTS[layouts[0]])

    def _check_plain(self, name: str, shape: Shape) -> None:
        self.expected.add(name)
        info = self._stored.get(name)
        if info is None:
            self.tell(_MISSING, name)
            return
        if info.shape != shape:
            self.tell(_MISSHAPEN, f"{name} {list(info.shape)} instead of {list(shape)}")
        if info.dtype not in _FLOATING:
            self.tell(_NOT_FLOATING, f"{name} ({info.dtype})")

    def _check_quantised(self, module: str, layout: Layout, shape: Shape) -> None:
        names = layout.names(module)
        self.expected.update(names)
        for name in names:
            if name not in self._stored:
                self.tell(_MISSING, name)
        for fault in layout.faults(module, shape, self._stored):
            self.tell(f"not as {layout.format.word} is stored", fault)
        if layout.shape is not None:
            self._check_repeated_shape(f"{module}.{layout.shape}", shape)
        self._allow_unused(f"{module}.{scale}" for scale in _INPUT_SCALES)

    def _check_repeated_shape(self, name: str, shape: Shape) -> None:
        info = self._stored.get(name)
        if info is None:
            return
        self.shapes[name] = shape
        if (info.dtype, info.shape) != ("int64", (2,)):
            self.tell(_MISSHAPEN, f"{name} {info.dtype} {list(info.shape)} instead of int64 [2]")

    def _layout_of(self, tensor: str) -> str | None:
        """Return the layout that a matrix is stored in; None: plain, or nobody knows."""
        module, info = _module(tensor), self._stored.get(tensor)
        packed = f"{module}.weight_packed" in self._stored
        if not packed and info is not None and info.dtype in _FLOATING:
            return None
        names = tuple(_names(module))
        rule = None if self._scheme is None else self._scheme.layout_of(names)
        excluded = None if self._scheme is None else self._scheme.excluded.match(names)
        if info is None and not packed:  # missing: of which name, the files say
            return None if excluded is not None else rule
        if self._scheme is not None and excluded is not None:
            self.tell(f"stored quantised, though {self._scheme.where} excludes {excluded}", module)
        elif self._scheme is not None and rule is None:
            self.tell(f"stored quantised, which {self._scheme.where} does not say", module)
        return rule

    def _allow_unused(self, names: Iterable[str]) -> None:
        """Let these tensors be there, one number each, though nothing needs them."""
        for name in names:
            info = self._stored.get(name)
            if info is None:
                continue
            self.expected.add(name)
            self.unused.add(name)
            if info.dtype not in _FLOATING or info.shape not in ((), (1,)):
                self.tell(_MISSHAPEN, f"{name} {info.dtype} {list(info.shape)} instead of one number")

    def _allow_cache_scales(self, weight: str) -> None:
        if self._scheme is not None and weight.endswith(".mixer.k_proj.weight"):
            mixer = weight.removesuffix(".k_proj.weight")
            self._allow_unused(f"{mixer}.{scale}" for scale in _CACHE_SCALES)

    def tell(self, kind: str, text: str) -> None:
        """Note a defect of a kind."""
        self.defects.setdefault(kind, []).append(text)


def _taken_as_stored(matrices: Mapping[str, WeightSpec]) -> set[str]:
    """Return the quantised stacks of experts whose codes and scales the graphs take.

    There must be an op for their format; it computes both projections of a layer, so both must be stored in
    one format; and its body in a tower's graph is for one format, that of the first layer that has the op.
    """
    of_op: dict[tuple[str, str], WeightFormat] = {}
    taken = set()
    for name, spec in matrices.items():
        both = [matrices[each] for each in _both(spec)] if spec.stacked and spec.layout else []
        formats = [LAYOUTS[each.layout].format for each in both if each.layout]
        if len(formats) < 2 or formats[0] != formats[1] or formats[0].family is None:
            continue
        if formats[0].group and any(matrices[each].part_shape[-1] % formats[0].group for each in _both(spec)):
            continue  # scales of another grouping, which no kernel has
        if of_op.setdefault((tower_of(name), formats[0].family), formats[0]) == formats[0]:
            taken.add(name)
    return taken


def _codes_and_scales(spec: WeightSpec) -> list[WeightSpec]:
    """Return what the graphs take of a quantised stack of experts as it is stored."""
    layout = LAYOUTS[spec.layout]
    shapes, dtypes = piece_shapes(layout.format, spec.part_shape), graph_dtypes(layout.format)
    modules = [part[0].removesuffix(f".{layout.pieces[0].stored}") for part in spec.parts]
    return [
        replace(
            spec,
            name=spec.name.removesuffix("weight") + suffix,
            tensors=tuple(f"{module}.{piece.stored}" for module in modules),
            shape=(spec.shape[0], *shapes[suffix]),
            dtype=dtypes[suffix] or COMPUTE,
            piece=suffix,
        )
        for suffix, piece in layout.graph_pieces.items()
    ]


def _both(spec: WeightSpec) -> list[str]:
    """Return the names of the two projections of the layer whose experts a weight is of."""
    before = spec.name.removesuffix("weight").removesuffix("up_proj.").removesuffix("down_proj.")
    return [f"{before}{projection}.weight" for projection in ("up_proj", "down_proj")]


def _decoded(spec: WeightSpec, layout: Layout) -> WeightSpec:
    """Return the weight as the decoded matrices of its tensors' modules."""
    modules = map(_module, spec.tensors)
    tensors = tuple(f"{module}.{piece.stored}" for module in modules for piece in layout.pieces)
    return replace(spec, tensors=tensors, layout=layout.word)


def _module(tensor: str) -> str:
    return tensor.removesuffix(".weight")


def _names(module: str) -> Iterator[str]:
    """Yield the names that files may have for a module: its own, and that in the model of one tower."""
    yield module
    for tower in (CONTEXT, DENOISER):
        if module.startswith(f"{tower}."):
            yield "backbone" + module.removeprefix(tower)
    if module == _module(HEADS[CONTEXT]):
        yield _module(HEADS[DENOISER])


def _refuse_foreign(stored: Iterable[str], where: str) -> None:
    """Raise `CheckpointError` where there are tensors of a quantiser that is not read."""
    for end, reason in _FOREIGN.items():
        names = [name for name in stored if name.endswith(end)]
        if names:
            raise CheckpointError(f"{where}: {first_of(names)}: {reason}")
