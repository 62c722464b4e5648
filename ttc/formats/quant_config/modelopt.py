"""What ModelOpt says of a checkpoint: `hf_quant_config.json`, or the same in `config.json`.

    quant_algo          one algorithm for all linear modules, or MIXED_PRECISION
    group_size          inputs that share a scale; may be missing
    exclude_modules     modules that are not quantised (`ttc.formats.quant_config.patterns`); "ignore" in
                        config.json
    quantized_layers    MIXED_PRECISION: {module: {quant_algo, group_size}}

Only the weights of an algorithm count here: NVFP4 and W4A16_NVFP4 store the same.
"""

from collections.abc import Mapping
from typing import Any, Final

from ttc.base.quantised import WEIGHT_FORMATS
from ttc.errors import CheckpointError
from ttc.formats.quant_config.patterns import Patterns
from ttc.formats.quant_config.scheme import Scheme, words
from ttc.formats.quantised.layouts import LAYOUTS
from ttc.formats.strictjson import quoted

__all__ = ["modelopt_scheme"]

_MIXED: Final = "MIXED_PRECISION"
# Algorithm → layout, beside those that we write ourselves.
_READ: Final[Mapping[str, str]] = {
    "FP8": "fp8",
    "NVFP4": "nvfp4",
    "MXFP4": "mxfp4",
    "W4A8_MXFP4_FP8": "mxfp4",
} | {each.algorithm: word for word, each in WEIGHT_FORMATS.items() if each.algorithm is not None}

_SCALED_INPUTS: Final = (
    "it scales the activations (pre_quant_scale), which weights alone cannot honour; quantise the plain "
    "checkpoint with `ttc quantize`, or with ModelOpt as NVFP4 or FP8"
)
_BLOCKS: Final = (
    "its scales are for blocks of two dimensions; quantise the plain checkpoint with `ttc quantize`"
)
_REFUSED: Final[Mapping[str, str]] = {
    "INT4_AWQ": _SCALED_INPUTS,
    "W4A16_AWQ": _SCALED_INPUTS,
    "W4A8_AWQ": _SCALED_INPUTS,
    "NVFP4_AWQ": _SCALED_INPUTS,
    "NVFP4_SVDQUANT": _SCALED_INPUTS,
    "W8A8_SQ_PER_CHANNEL": _SCALED_INPUTS,
    "INT8_SQ": _SCALED_INPUTS,
    "FP8_PB_WO": _BLOCKS,
    "FP8_PB_REAL": _BLOCKS,
}


def modelopt_scheme(config: Mapping[str, Any], where: str) -> Scheme:
    """Return what `config` says: the object "quantization", or `quantization_config` of config.json.

    Raises:
        CheckpointError: an algorithm is not known or not read, or a value is not of its type.
    """
    algorithm = config.get("quant_algo")
    excluded = [*words(config, "exclude_modules", where), *words(config, "ignore", where)]
    if algorithm != _MIXED:
        rules = ((Patterns(["*"], where), _layout(config, where)),)
        return Scheme(where, str(algorithm), rules, Patterns(excluded, where))
    layers = config.get("quantized_layers")
    if not isinstance(layers, dict) or not all(isinstance(each, dict) for each in layers.values()):
        raise CheckpointError(
            f"{where}: quant_algo is {_MIXED}, but quantized_layers is {quoted(layers)}, an object of module "
            "→ {quant_algo, group_size} is due"
        )
    by_layout: dict[str, list[str]] = {}
    for name, each in layers.items():
        layout = _layout(each, f"{where}: quantized_layers: {quoted(name)}")
        by_layout.setdefault(layout, []).append(name)
    found = tuple((Patterns(names, where), layout) for layout, names in by_layout.items())
    return Scheme(where, _MIXED, found, Patterns(excluded, where))


def _layout(config: Mapping[str, Any], where: str) -> str:
    """Return the layout of the algorithm that an object names."""
    algorithm = config.get("quant_algo")
    if not isinstance(algorithm, str) or algorithm not in _READ:
        reason = _REFUSED.get(algorithm) if isinstance(algorithm, str) else None
        known = ", ".join((*_READ, _MIXED))
        raise CheckpointError(
            f"{where}: quant_algo {quoted(algorithm)} is not read: {reason}"
            if reason
            else f"{where}: quant_algo {quoted(algorithm)} is not known; known: {known}"
        )
    if config.get("pre_quant_scale") is True:
        raise CheckpointError(f"{where}: pre_quant_scale is true: {_SCALED_INPUTS}")
    layout = _READ[algorithm]
    due, group = LAYOUTS[layout].format.group, config.get("group_size")
    if group is not None and due and group != due:
        raise CheckpointError(
            f"{where}: {algorithm} with group_size {quoted(group)} is not read, {due} is; quantise the plain "
            "checkpoint with `ttc quantize`"
        )
    return layout
