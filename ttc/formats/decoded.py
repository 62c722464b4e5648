"""Quantised weights that graphs take as they are stored, decoded for whoever computes without such ops."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from ttc.base.dtypes import numpy_dtype
from ttc.errors import NumericsError
from ttc.formats.manifest import WeightSpec
from ttc.formats.quantised.codecs import decode
from ttc.formats.quantised.layouts import LAYOUTS
from ttc.formats.shard import Array
from ttc.formats.strictjson import quoted

__all__ = ["decode_weight", "decoded_specs"]

_CODES = "weight"


def decoded_specs(specs: Mapping[str, WeightSpec], compute_dtype: str) -> dict[str, WeightSpec]:
    """Return name → weight, where codes have become weights of the compute dtype, and there are no scales."""
    return {
        name: replace(spec, dtype=compute_dtype, piece="") if spec.piece else spec
        for name, spec in specs.items()
        if spec.piece in ("", _CODES)
    }


def decode_weight(
    spec: WeightSpec, specs: Mapping[str, WeightSpec], parts: Callable[[str], Iterator[Array]], dtype: str
) -> Array:
    """Return a stack of experts, decoded expert by expert in float32 and rounded once to `dtype`.

    Args:
        spec: of the codes.
        specs: of all weights, by name.
        parts: name of a weight → its parts, one an expert.
        dtype: name of a floating dtype.

    Raises:
        NumericsError: a weight comes out as NaN or infinite.
    """
    before = spec.name.removesuffix(_CODES)
    pieces = [piece for piece in LAYOUTS[spec.layout].graph_pieces if before + piece in specs]
    made = np.empty(spec.shape, numpy_dtype(dtype))
    for i, arrays in enumerate(zip(*(parts(before + piece) for piece in pieces), strict=True)):
        try:
            with np.errstate(over="ignore"):
                made[i] = decode(LAYOUTS[spec.layout].format.word, dict(zip(pieces, arrays, strict=True)))
        except NumericsError as fault:
            raise NumericsError(f"weight {quoted(spec.name)}, expert {i}: {fault}") from None
    if not np.isfinite(made).all():
        raise NumericsError(f"weight {quoted(spec.name)}: a value is too large for {dtype}")
    made.flags.writeable = False
    return made
