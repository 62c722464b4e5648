"""Which model is planned for: the released one, or that of a bundle, a checkpoint or a config.json."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from ttc.errors import CheckpointError
from ttc.formats.manifest import MANIFEST_FILE
from ttc.formats.strictjson import quoted, read_json
from ttc.model.bundle import Bundle
from ttc.model.config import ModelConfig

__all__ = ["RELEASED", "load_config", "released_config"]

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
