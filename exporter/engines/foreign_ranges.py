"""The sizes that an ONNX file of another exporter is built for: what the user gave, put on the inputs of the
network.

Sizes are given by input ("x": 1x3x32x32; of an input whose values decide shapes, its values) or by the name
of a dimension ("n": 8). Of smallest, usual and largest size any may be left out, as with trtexec: the
smallest is then the usual or else the largest, the usual the largest or else the smallest, the largest the
usual or else the smallest.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from ttc.exporter.engines.network import NAMELESS, Network, NetworkTensor
from ttc.formats.engines import TensorRecord
from ttc.formats.strictjson import quoted

__all__ = ["UNKNOWN_SIZE", "Sizes", "input_records", "output_records"]

# Name of an input or a dimension → "min", "opt", "max" → sizes; a number alone is a list of one.
Sizes = Mapping[str, Mapping[str, int | tuple[int, ...]]]
ENDS = ("min", "opt", "max")
# An output's open dimension: only the library knows it, and only when the engine runs.
UNKNOWN_SIZE = -1
_FALL_BACK = {"min": ("min", "opt", "max"), "opt": ("opt", "max", "min"), "max": ("max", "opt", "min")}


def output_records(network: Network) -> tuple[TensorRecord, ...]:
    """Return the outputs as the manifest keeps them."""
    records = []
    for tensor in network.outputs:
        sizes = tuple(UNKNOWN_SIZE if isinstance(dim, str) else dim for dim in tensor.shape)
        records.append(TensorRecord(tensor.name, "tensor", tensor.dtype, tensor.shape, sizes, sizes, sizes))
    return tuple(records)


def input_records(network: Network, given: Sizes, problems: list[str]) -> tuple[TensorRecord, ...]:
    """Return the inputs with their ranges.

    Args:
        network: as the library tells it.
        given: as the user wrote them.
        problems: gets everything that is wrong or missing, one sentence each.

    Returns:
        The inputs in the network's order; of use only where there are no problems.
    """
    sizes = {name: _completed(ends) for name, ends in given.items()}
    by_input, by_dim = _told_apart(network, sizes)
    if unknown := sorted(sizes.keys() - by_input.keys() - by_dim.keys()):
        problems.append(_unknown(network, unknown))
    records, missing = [], []
    for tensor in network.inputs:
        found = len(problems)
        problems.extend(_misfits(tensor, by_input.get(tensor.name)))
        if len(problems) > found:
            continue
        ranges = _ranges(tensor, by_input.get(tensor.name), by_dim, problems)
        if ranges is None:
            missing.append(tensor)
            continue
        problems.extend(_disorder(tensor, ranges))
        kind = "shape" if tensor.is_shape else "tensor"
        records.append(TensorRecord(tensor.name, kind, tensor.dtype, tensor.shape, *ranges))
    if missing:
        problems.append(_missing(missing))
    return tuple(records)


_Triple = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _completed(ends: Mapping[str, int | tuple[int, ...]]) -> _Triple:
    """Return min, opt and max, as trtexec fills in what is not given."""
    found = []
    for end in ENDS:
        size = next(ends[other] for other in _FALL_BACK[end] if other in ends)
        found.append((size,) if isinstance(size, int) else tuple(size))
    return found[0], found[1], found[2]


def _told_apart(
    network: Network, sizes: Mapping[str, _Triple]
) -> tuple[dict[str, _Triple], dict[str, _Triple]]:
    """Return the sizes given by input and those given by dimension."""
    inputs = {tensor.name: tensor for tensor in network.inputs}
    dims = {dim for tensor in network.inputs for dim in tensor.shape if isinstance(dim, str)} - {NAMELESS}
    by_input, by_dim = {}, {}
    for name, triple in sizes.items():
        is_number = all(len(part) == 1 for part in triple)
        if name in dims and is_number and not (name in inputs and len(inputs[name].shape) == 1):
            by_dim[name] = triple
        elif name in inputs:
            by_input[name] = triple
        elif name in dims:
            by_dim[name] = triple  # refused below: a dimension has one number
    return by_input, by_dim


def _misfits(tensor: NetworkTensor, given: _Triple | None) -> Iterator[str]:
    """Give what is wrong with the sizes given for an input."""
    if given is None:
        return
    for end, sizes in zip(ENDS, given, strict=True):
        what = f"{end} sizes of input {quoted(tensor.name)} are {_text(sizes)}"
        if tensor.is_shape:
            count = prod(dim for dim in tensor.shape if isinstance(dim, int))
            if len(sizes) != count and all(isinstance(dim, int) for dim in tensor.shape):
                yield f"{what}; valid: its {count} values, since the network's shapes depend on them"
        elif len(sizes) != len(tensor.shape) or any(
            isinstance(dim, int) and dim != size for dim, size in zip(tensor.shape, sizes, strict=True)
        ):
            yield f"{what}; valid: sizes of the shape {_shape(tensor)}"
        elif any(size < 0 for size in sizes):
            yield f"{what}; valid: no negative ones"
        else:
            continue
        return


def _ranges(
    tensor: NetworkTensor, given: _Triple | None, by_dim: Mapping[str, _Triple], problems: list[str]
) -> _Triple | None:
    """Return the ranges of an input; None where the user must give some."""
    if given is not None:
        return given
    if tensor.is_shape:
        return None
    ends: list[tuple[int, ...]] = []
    for i, end in enumerate(ENDS):
        sizes = []
        for dim in tensor.shape:
            if isinstance(dim, int):
                sizes.append(dim)
            elif dim not in by_dim:
                return None
            else:
                if len(by_dim[dim][i]) != 1:
                    problem = f"{end} size of dimension {quoted(dim)} is {_text(by_dim[dim][i])}"
                    problems.append(f"{problem}; valid: one number")
                sizes.append(by_dim[dim][i][0])
        ends.append(tuple(sizes))
    return ends[0], ends[1], ends[2]


def _disorder(tensor: NetworkTensor, ranges: _Triple) -> Iterator[str]:
    low, usual, high = ranges
    if any(not a <= b <= c for a, b, c in zip(low, usual, high, strict=True)):
        told = ", ".join(f"{end} {_text(sizes)}" for end, sizes in zip(ENDS, ranges, strict=True))
        yield f"sizes of input {quoted(tensor.name)} are {told}; valid: min ≤ opt ≤ max in each"


def _unknown(network: Network, names: Sequence[str]) -> str:
    inputs = ", ".join(f"{tensor.name} {_shape(tensor)}" for tensor in network.inputs) or "none"
    dims = sorted({dim for tensor in network.inputs for dim in tensor.shape if isinstance(dim, str)})
    named = ", ".join(dim for dim in dims if dim != NAMELESS) or "none"
    told = ", ".join(map(quoted, names))
    return f"sizes are given for {told}, which the network has not; inputs: {inputs}; dimensions: {named}"


def _missing(tensors: Sequence[NetworkTensor]) -> str:
    """Ask for all sizes at once, with options that can be copied and filled in."""
    told = ", ".join(
        f"{tensor.name} {_shape(tensor)}" + (" (its values)" if tensor.is_shape else "") for tensor in tensors
    )
    words = ",".join(f"{_option_name(tensor.name)}:{_text(_ones(tensor))}" for tensor in tensors)
    quote = '"' if "'" in words else "'"
    options = " ".join(f"--{end}-shapes {quote}{words}{quote}" for end in ENDS)
    return f"sizes are missing for {told}; give them, with your numbers for the ones, as: {options}"


def _ones(tensor: NetworkTensor) -> tuple[int, ...]:
    if tensor.is_shape:
        return (1,) * prod(dim if isinstance(dim, int) else 1 for dim in tensor.shape)
    return tuple(dim if isinstance(dim, int) else 1 for dim in tensor.shape)


def _option_name(name: str) -> str:
    return f"'{name}'" if "," in name else name


def _text(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _shape(tensor: NetworkTensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
