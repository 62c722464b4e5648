"""What compressed-tensors says of a checkpoint: `quantization_config` of `config.json`.

    format           float-quantized, int-quantized, naive-quantized, pack-quantized, nvfp4-pack-quantized,
                     or mixed-precision, where each group names its own
    config_groups    {name: {weights: {type, num_bits, strategy, group_size, symmetric, …}, targets, format}}
    ignore           modules that are not quantised (`ttc.formats.quant_config.patterns`)

A target is a class of modules, of which "Linear" is the one that there is here, or an entry as in `ignore`.
"""

from collections.abc import Mapping
from typing import Any, Final

from ttc.errors import CheckpointError
from ttc.formats.quant_config.patterns import Patterns
from ttc.formats.quant_config.scheme import Scheme, words
from ttc.formats.strictjson import quoted

__all__ = ["compressed_scheme"]

_LINEAR: Final = "Linear"
# (format, type, bits) of the weights → layout.
_LAYOUTS: Final[Mapping[tuple[str, str, int], str]] = {
    ("float-quantized", "float", 8): "fp8",
    ("naive-quantized", "float", 8): "fp8",
    ("int-quantized", "int", 8): "int8",
    ("naive-quantized", "int", 8): "int8",
    ("pack-quantized", "int", 4): "int4-ct",
    ("nvfp4-pack-quantized", "float", 4): "nvfp4-ct",
}
_STRATEGIES: Final[Mapping[str, tuple[str, ...]]] = {
    "fp8": ("tensor", "channel"),
    "int8": ("tensor", "channel"),
    "int4-ct": ("group", "channel"),
    "nvfp4-ct": ("tensor_group",),
}
_INSTEAD: Final = "quantise the plain checkpoint with `ttc quantize`"


def compressed_scheme(config: Mapping[str, Any], where: str) -> Scheme:
    """Return what `config`, the object `quantization_config`, says.

    Raises:
        CheckpointError: a format is not read, or a value is not of its type.
    """
    groups = config.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise CheckpointError(f"{where}: config_groups is {quoted(groups)}, an object of groups is due")
    for key in ("sparsity_config", "transform_config"):
        said = config.get(key)
        if said and said != {"format": "dense"}:
            raise CheckpointError(f"{where}: {key} {quoted(said)} is not read; {_INSTEAD}")
    rules = []
    for name, group in groups.items():
        inside = f"{where}: config_groups: {quoted(name)}"
        if not isinstance(group, dict):
            raise CheckpointError(f"{inside} is {quoted(group)}, an object is due")
        targets = words(group, "targets", inside)
        entries = ["*" if target == _LINEAR else target for target in targets]
        written = group.get("format") or config.get("format")
        rules.append((Patterns(entries, inside), _layout(group, written, inside)))
    return Scheme(
        where, str(config.get("format")), tuple(rules), Patterns(words(config, "ignore", where), where)
    )


def _layout(group: Mapping[str, Any], written: object, where: str) -> str:
    """Return the layout of a group whose format is `written`."""
    weights = group.get("weights")
    if not isinstance(weights, dict):
        raise CheckpointError(f"{where}: weights is {quoted(weights)}, an object is due")
    kind, bits, strategy = (weights.get(key) for key in ("type", "num_bits", "strategy"))
    layout = next((each for key, each in _LAYOUTS.items() if key == (written, kind, bits)), None)
    if layout is None:
        known = ", ".join(f"{fmt} with {bits} bit {kind}" for fmt, kind, bits in _LAYOUTS)
        raise CheckpointError(
            f"{where}: format {quoted(written)} with {quoted(bits)} bit {quoted(kind)} is not read; read are "
            f"{known}; {_INSTEAD}"
        )
    if strategy is not None and strategy not in _STRATEGIES[layout]:
        raise CheckpointError(
            f"{where}: strategy {quoted(strategy)} of {written} is not read, "
            f"{' and '.join(_STRATEGIES[layout])} are; {_INSTEAD}"
        )
    if weights.get("symmetric") is False:
        raise CheckpointError(
            f"{where}: weights with zero points (symmetric: false) are not read; {_INSTEAD}"
        )
    if weights.get("actorder") in ("group", True):
        raise CheckpointError(f"{where}: weights ordered by g_idx (actorder) are not read; {_INSTEAD}")
    size = weights.get("group_size")
    if layout == "int4-ct" and strategy == "group" and (type(size) is not int or size <= 0 or size % 32):
        raise CheckpointError(
            f"{where}: group_size {quoted(size)} is not read, multiples of 32 are; {_INSTEAD}"
        )
    if layout == "nvfp4-ct" and size not in (None, 16):
        raise CheckpointError(
            f"{where}: group_size {quoted(size)} of {written} is not read, 16 is; {_INSTEAD}"
        )
    return layout
