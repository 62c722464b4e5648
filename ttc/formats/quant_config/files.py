"""The files of a checkpoint that say what is quantised.

    hf_quant_config.json                 ModelOpt's: {"producer": {…}, "quantization": {…}}
    config.json: quantization_config     ModelOpt's in newer exports, or compressed-tensors' (quant_method)

Where both are there, they must name the same algorithm and layouts; what either excludes is excluded.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ttc.errors import CheckpointError
from ttc.formats.quant_config.compressed_tensors import compressed_scheme
from ttc.formats.quant_config.modelopt import modelopt_scheme
from ttc.formats.quant_config.patterns import Patterns
from ttc.formats.quant_config.scheme import Scheme
from ttc.formats.strictjson import quoted, read_json

__all__ = ["QUANT_FILE", "read_scheme"]

QUANT_FILE: Final = "hf_quant_config.json"
_CONFIG_FILE: Final = "config.json"
_MAX_CONFIG_BYTES: Final = 16 * 2**20

_CONVERT: Final = (
    "convert it with compressed-tensors' own converters, or quantise the plain checkpoint with `ttc quantize`"
)
# Other tools' methods, and why they are not read.
_REFUSED: Final[Mapping[str, str]] = {
    "gptq": f"GPTQ orders weights by g_idx and packs them with zero points; {_CONVERT}",
    "awq": f"AWQ packs weights in an order of its own, for scaled activations; {_CONVERT}",
    "fp8": "its scales are for blocks of two dimensions; quantise the plain checkpoint with `ttc quantize`",
}


def read_scheme(folder: Path) -> Scheme | None:
    """Return what the checkpoint in `folder` says of itself; None: nothing, so it is plain.

    Raises:
        CheckpointError: a file is not as it should be, or what it says is not read.
    """
    path = folder / QUANT_FILE
    found = _of_modelopt(path) if os.path.lexists(path) else None
    config = _object(folder / _CONFIG_FILE).get("quantization_config")
    inside = _of_config(config, f"{folder / _CONFIG_FILE}: quantization_config")
    if found is None or inside is None:
        return found or inside
    if inside.algorithm != found.algorithm:
        raise CheckpointError(
            f"{path} says {quoted(found.algorithm)}, but {inside.where} {quoted(inside.algorithm)}; delete "
            "the one that is stale"
        )
    if found.layouts != inside.layouts:
        raise CheckpointError(
            f"{path} and {inside.where} give modules other formats; delete the one that is stale"
        )
    both = f"{path} and {_CONFIG_FILE}"
    excluded = Patterns(found.excluded.entries | inside.excluded.entries, both)
    return Scheme(both, found.algorithm, found.rules, excluded)


def _of_modelopt(path: Path) -> Scheme:
    """Return what ModelOpt's own file says."""
    quantization = _object(path).get("quantization")
    if not isinstance(quantization, dict):
        raise CheckpointError(f"{path}: 'quantization' is {quoted(quantization)}, an object is due")
    return modelopt_scheme(quantization, str(path))


def _of_config(config: object, where: str) -> Scheme | None:
    """Return what `quantization_config` says."""
    if config is None:
        return None
    if not isinstance(config, dict):
        raise CheckpointError(f"{where} is {quoted(config)}, an object is due")
    method = config.get("quant_method")
    if method == "modelopt":
        return modelopt_scheme(config, where)
    if method == "compressed-tensors":
        return compressed_scheme(config, where)
    reason = _REFUSED.get(method) if isinstance(method, str) else None
    raise CheckpointError(
        f"{where}: quant_method {quoted(method)} is not read: "
        + (reason or "'modelopt' and 'compressed-tensors' are")
    )


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path, _MAX_CONFIG_BYTES, CheckpointError, allow_infinity=True)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: a JSON object is due, found {quoted(value)}")
    return value
