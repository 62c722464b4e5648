"""The files that say what is quantised, in the layout of NVIDIA's ModelOpt.

`hf_quant_config.json` holds it, and `quantization_config` of `config.json` repeats it, as newer exports of
ModelOpt do. Where all quantised matrices have one algorithm, it is named once, and `exclude_modules` lists
everything else; two formats are MIXED_PRECISION, where every quantised module is listed with its own. The
algorithms are those for weights only (`ttc.base.quantised`). fp8 and nvfp4 lie as ModelOpt itself writes
them, which other readers of it take; int8 (one scale an output) and int4 (groups of 32 along the inputs) use
its names and are read by `ttc`.
"""

from collections.abc import Iterator
from typing import Any

from ttc import __version__
from ttc.base.quantised import PLAIN, WEIGHT_FORMATS
from ttc.model.config import LayerKind, ModelConfig
from ttc.model.weights import CONTEXT, DENOISER, HEADS
from ttc.quantize.plan import QuantizePlan

__all__ = ["MIXED", "quant_config", "with_quantization"]

MIXED = "MIXED_PRECISION"
_PRODUCER = {"name": "ttc", "version": __version__}


def quant_config(plan: QuantizePlan, config: ModelConfig) -> dict[str, Any]:
    """Return the content of `hf_quant_config.json`."""
    return {"producer": _PRODUCER, "quantization": _quantization(plan, config)}


def with_quantization(hf_config: dict[str, Any], plan: QuantizePlan, config: ModelConfig) -> dict[str, Any]:
    """Return the content of `config.json` with what was quantised."""
    inside = _quantization(plan, config)
    found = {"quant_method": "modelopt", "quant_algo": inside["quant_algo"], "producer": _PRODUCER}
    found["ignore"] = inside["exclude_modules"]
    found["kv_cache_scheme"] = None
    found["config_groups"] = {
        f"group_{i}": {"weights": _weights(word), "input_activations": None, "targets": ["Linear"]}
        for i, word in enumerate(plan.formats.used)
    }
    if "quantized_layers" in inside:
        found["quantized_layers"] = inside["quantized_layers"]
    return hf_config | {"quantization_config": found}


def _quantization(plan: QuantizePlan, config: ModelConfig) -> dict[str, Any]:
    found: dict[str, Any] = {"quant_algo": MIXED, "kv_cache_quant_algo": None}
    if len(plan.formats.used) == 1:
        (word,) = plan.formats.used
        found |= _algorithm(word)
    else:
        found["quantized_layers"] = {
            piece.module: _algorithm(piece.format) for piece in plan.matrices if piece.module is not None
        }
    found["exclude_modules"] = list(_excluded(plan, config))
    return found


def _algorithm(word: str) -> dict[str, Any]:
    kind = WEIGHT_FORMATS[word]
    return {"quant_algo": kind.algorithm} | ({"group_size": kind.group} if kind.group else {})


def _weights(word: str) -> dict[str, Any]:
    kind = WEIGHT_FORMATS[word]
    grouped = {"strategy": "group", "group_size": kind.group} if kind.group else {"strategy": "channel"}
    floats = "int" if kind.codes.startswith("int") else "float"
    return {"dynamic": False, "num_bits": kind.bits, "type": floats, "symmetric": True, **grouped}


def _excluded(plan: QuantizePlan, config: ModelConfig) -> Iterator[str]:
    """Yield every module that stays as it is: names, and prefixes that end in ".*"."""
    for tower in (CONTEXT, DENOISER):
        yield f"{tower}.embeddings"
        for i, kind in enumerate(config.layers):
            layer = f"{tower}.layers.{i}"
            if kind == LayerKind.MOE and plan.formats.of(tower) != PLAIN:
                yield f"{layer}.mixer.gate"
                yield f"{layer}.mixer.shared_experts.*"
            else:
                yield f"{layer}.*"
        yield HEADS[tower].removesuffix(".weight")
    yield "t_block.*"
    yield "t_embedder.*"
