"""The golden numbers of quantised weights: tests/golden/quantised, whose README says what they are."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ttc.formats.shard import Array, Shard

FOLDER = Path(__file__).parents[1] / "golden" / "quantised"
CHECKPOINTS = ("tiny_fp8", "tiny_nvfp4")
MATRICES = (
    "normal",
    "zero_blocks",
    "subnormals",
    "tiny",
    "ties_e2m1",
    "ties_e4m3",
    "outlier",
    "equal",
    "equal_negative",
)


def vector(name: str) -> Array:
    """One tensor of vectors.safetensors."""
    return _vectors().read(name)


def stored(prefix: str) -> dict[str, Array]:
    """All tensors of vectors.safetensors that begin with `prefix`/, by the rest of their names."""
    names = [name for name in _vectors().tensors if name.startswith(f"{prefix}/")]
    return {name.removeprefix(f"{prefix}/"): _vectors().read(name) for name in names}


@functools.cache
def expected() -> dict[str, Any]:
    """The tokens of both checkpoints."""
    read: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
    return read


@functools.cache
def defects() -> dict[str, Any]:
    """The planted defects by name."""
    read: dict[str, Any] = json.loads((FOLDER / "defects" / "defects.json").read_text())
    return read


def with_defect(name: str, folder: Path) -> Path:
    """A copy of the defect's checkpoint in `folder`, with the defect."""
    from safetensors.numpy import save_file

    defect = defects()[name]
    shutil.copytree(FOLDER / defect["base"], folder)
    overlay = FOLDER / "defects" / name
    for file in defect["json"]:
        shutil.copy(overlay / file, folder / file)
    replaced = tensors_of(overlay / "tensors.safetensors") if defect["replace"] else {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors = tensors_of(shard)
        changed = {key: replaced[key] for key in tensors.keys() & replaced.keys()}
        if changed or tensors.keys() & set(defect["remove"]):
            kept = {key: value for key, value in (tensors | changed).items() if key not in defect["remove"]}
            save_file(kept, shard)
    index = folder / "model.safetensors.index.json"
    if defect["remove"] and index.exists():
        content = json.loads(index.read_text())
        for key in defect["remove"]:
            del content["weight_map"][key]
        index.write_text(json.dumps(content))
    return folder


def tensors_of(path: Path) -> dict[str, Array]:
    """All tensors of a file."""
    with Shard.open(path) as shard:
        return {name: np.array(shard.read(name)) for name in shard.tensors}


@functools.cache
def _vectors() -> Shard:
    return Shard.open(FOLDER / "vectors.safetensors")
