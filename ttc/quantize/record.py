"""What was done: as `ttc_quantised.json` for this package, and as README.md, the model card, for people.

Both are a function of checkpoint and options alone: no times, no paths.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ttc import __version__
from ttc.base.quantised import PLAIN, WEIGHT_FORMATS
from ttc.quantize.plan import Formats

__all__ = ["RECORD_FILE", "RECORD_FORMAT", "LayerErrors", "Record"]

RECORD_FILE, RECORD_FORMAT = "ttc_quantised.json", "ttc-quantised"
_ABOUT = {
    "int8": "integers of 8 bits, one scale for each output",
    "fp8": "floats of 8 bits (e4m3), one scale for each output",
    "nvfp4": "floats of 4 bits (e2m1), an e4m3 scale for each 16 inputs and a float32 scale for each matrix",
    "int4": "integers of 4 bits, a bfloat16 scale for each 32 inputs",
}


@dataclass(frozen=True, slots=True)
class LayerErrors:
    """The matrices of one projection of a layer's experts.

    Attributes:
        module: "context_tower.layers.1.mixer.experts.up_proj".
        format: of all of them.
        errors: of each expert, ‖decoded − matrix‖ / ‖matrix‖.
        at_top: share of codes at an end of their range, over all.
    """

    module: str
    format: str
    errors: tuple[float, ...]
    at_top: float

    @property
    def mean(self) -> float:
        """The mean error."""
        return sum(self.errors) / len(self.errors)

    @property
    def worst(self) -> tuple[int, float]:
        """The expert with the largest error, and that error."""
        expert = max(range(len(self.errors)), key=self.errors.__getitem__)
        return expert, self.errors[expert]


@dataclass(frozen=True, slots=True)
class Record:
    """One run of `ttc quantize`.

    Attributes:
        source: name of the checkpoint's folder.
        formats: of each tower.
        layers: errors, in the order of the model.
        source_bytes, tower_bytes, expert_bytes: as in the plan.
    """

    source: str
    formats: Formats
    layers: Sequence[LayerErrors]
    source_bytes: int
    tower_bytes: Mapping[str, int]
    expert_bytes: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Return what `ttc_quantised.json` holds, but for its first line."""
        return {
            "ttc_version": __version__,
            "source": self.source,
            "experts": asdict(self.formats),
            "source_bytes": self.source_bytes,
            "tower_bytes": dict(self.tower_bytes),
            "expert_bytes": list(self.expert_bytes),
            "layers": [
                asdict(layer)
                | {"errors": [_rounded(e) for e in layer.errors], "at_top": _rounded(layer.at_top)}
                for layer in self.layers
            ],
        }

    def to_json(self) -> bytes:
        """Return the bytes of `ttc_quantised.json`."""
        return json.dumps({"format": RECORD_FORMAT, **self.to_dict()}, indent=1, allow_nan=False).encode()

    def card(self) -> str:
        """Return README.md."""
        return "\n".join((*_card(self), ""))


def _rounded(value: float) -> float:
    """Four digits: more would be different where another library adds up in another order."""
    return float(f"{value:.4g}")


def _card(record: Record) -> Iterator[str]:
    formats, total = record.formats, sum(record.tower_bytes.values())
    before, after = record.expert_bytes
    yield "---"
    yield "tags: [ttc, quantized, two-tower, block-diffusion]"
    yield "---"
    yield ""
    yield f"# {record.source}, routed experts in {formats}"
    yield ""
    yield (
        f"Made from the checkpoint `{record.source}` by `ttc quantize` {__version__}. Only the weights of "
        "the routed experts are quantised: rounded to nearest, without calibration data. Everything else is "
        "as it was stored, and activations stay in the compute dtype."
    )
    yield ""
    yield "| | experts | weights |"
    yield "| --- | --- | --- |"
    for tower, count in record.tower_bytes.items():
        word = formats.of(tower)
        yield f"| {tower.replace('_', ' ')} | {_about(word, formats)} | {count / 1e9:.3f} GB |"
    yield f"| both | {after / before:.3f} of their bytes in the source | {total / 1e9:.3f} GB |"
    yield ""
    yield f"The source has {record.source_bytes / 1e9:.3f} GB of weights."
    yield ""
    yield "`ttc export` takes this folder like any other checkpoint. The layout is ModelOpt's:"
    yield "`hf_quant_config.json` says what is quantised, `config.json` repeats it."
    yield ""
    yield "## Errors"
    yield ""
    yield "‖decoded − original‖ / ‖original‖ of a matrix; `ttc_quantised.json` has every expert's."
    yield ""
    yield "| matrices | format | mean | largest | of expert | codes at the top |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for layer in record.layers:
        expert, worst = layer.worst
        yield (
            f"| `{layer.module}` | {layer.format} | {layer.mean:.4f} | {worst:.4f} | {expert} | "
            f"{100 * layer.at_top:.1f} % |"
        )


def _about(word: str, formats: Formats) -> str:
    if word == PLAIN:
        return "as they were"
    kind = WEIGHT_FORMATS[word]
    way = ""
    if word == "nvfp4":
        way = "; block scales by four over six" if formats.four_over_six else "; block scales by amax / 6"
    return f"{word} ({_ABOUT[word]}{way}; `{kind.algorithm}`)"
