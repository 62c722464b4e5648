"""Which model is planned for: the released one, or that of a bundle, a checkpoint or a config.json; and how
its experts are stored.
"""

import json
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from ttc.base.quantised import PLAIN
from ttc.errors import CheckpointError
from ttc.formats.manifest import MANIFEST_FILE
from ttc.formats.quant_config.files import read_scheme
from ttc.formats.quantised.layouts import LAYOUTS
from ttc.formats.strictjson import quoted, read_json
from ttc.model.bundle import Bundle
from ttc.model.config import LayerKind, ModelConfig
from ttc.model.weights import CONTEXT, DENOISER
from ttc.planning.expert_formats import ExpertFormats

__all__ = ["RELEASED", "load_config", "released_config", "stored_formats"]

# nvidia/Nemotron-Labs-TwoTower-30B-A3B-Base-BF16: what its config.json says that changes the arithmetic.
RELEASED = "twotower-30b-a3b"
_MAX_BYTES = 2**20


def released_config() -> dict[str, Any]:
    """Return the released model's `config.json`, without what does not change the arithmetic."""
    text = files(__package__).joinpath(f"{RELEASED}.json").read_text("utf-8")
    content = json.loads(text)
    assert isinstance(content, dict)
    return content


def load_config(path: Path | None) -> tuple[str, ModelConfig]:
    """Return a name and the configuration: of the released model (None), or of what lies at `path`.

    Raises `CheckpointError` or `BundleError` where that is no configuration.
    """
    if path is None:
        return RELEASED, ModelConfig.from_hf(released_config())
    if (path / MANIFEST_FILE).is_file():
        with Bundle.open(path) as bundle:
            return path.resolve().name, bundle.config
    file = path / "config.json" if path.is_dir() else path
    content = read_json(file, _MAX_BYTES, CheckpointError, allow_infinity=True)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: a JSON object is expected, found {quoted(content)}")
    return path.resolve().name, ModelConfig.from_hf(content, where=str(file))


def stored_formats(path: Path | None, config: ModelConfig) -> ExpertFormats:
    """Return how the experts of what lies at `path` are stored: in each tower, as most of its layers are."""
    words: dict[str, Counter[str]] = {CONTEXT: Counter({PLAIN: 0}), DENOISER: Counter({PLAIN: 0})}
    for tower, word in _layer_formats(path, config):
        words[tower][word] += 1
    return ExpertFormats(*(words[tower].most_common(1)[0][0] for tower in (CONTEXT, DENOISER)))


def _layer_formats(path: Path | None, config: ModelConfig) -> Iterator[tuple[str, str]]:
    """Yield tower and format of every layer of experts, where they are not all plain."""
    layers = [(tower, i) for tower in (CONTEXT, DENOISER) for i in config.layers_of(LayerKind.MOE)]
    if path is None or not path.is_dir():
        return
    if (path / MANIFEST_FILE).is_file():
        with Bundle.open(path) as bundle:
            stored = bundle.manifest.weights.map
            for tower, i in layers:
                layout = stored[f"{tower}.layers.{i}.mixer.experts.up_proj.weight"].layout
                yield tower, LAYOUTS[layout].format.word if layout else PLAIN
        return
    scheme = read_scheme(path)
    for tower, i in layers if scheme is not None else ():
        assert scheme is not None
        inside = f"layers.{i}.mixer.experts.0.up_proj"
        names = (f"{tower}.{inside}", f"backbone.{inside}")
        found = None if scheme.excluded.match(names) else scheme.layout_of(names)
        yield tower, LAYOUTS[found].format.word if found else PLAIN
