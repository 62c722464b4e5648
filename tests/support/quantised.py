"""The golden numbers of quantised weights: tests/golden/quantised, whose README says what they are."""

import functools
import json
import shutil
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ttc.base.quantised import WEIGHT_FORMATS
from ttc.formats.quant_config.files import QUANT_FILE
from ttc.formats.quantised.codecs import encode
from ttc.formats.shard import Array, Shard
from ttc.model.config import ModelConfig
from ttc.model.weights import expected_tensors

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


SMALL: dict[str, Any] = {
    "hybrid_override_pattern": "EE",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "vocab_size": 32,
    "layer_norm_epsilon": 1e-5,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "bfloat16",
}


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


def small_checkpoint(folder: Path, formats: Mapping[str, str], seed: int = 0) -> Path:
    """A model of two MoE layers a tower, BF16, whose matrices are quantised as told, in ModelOpt's layout.

    Args:
        folder: made.
        formats: pattern of modules (`fnmatch`) → format; the first that fits counts.
        seed: of the weights.
    """
    from safetensors.numpy import save_file

    draw = np.random.default_rng(seed)
    folder.mkdir()
    tensors: dict[str, Array] = {}
    layers = {}
    for name, shape in expected_tensors(ModelConfig.from_hf(SMALL)).items():
        matrix = (draw.standard_normal(shape) * 0.1).astype(ml_dtypes.bfloat16)
        module = name.removesuffix(".weight")
        word = next((word for pattern, word in formats.items() if fnmatch(module, pattern)), None)
        if word is None:
            tensors[name] = matrix.astype(np.float32) if ".gate." in name else matrix
            continue
        layers[module] = {"quant_algo": WEIGHT_FORMATS[word].algorithm}
        tensors |= {f"{module}.{suffix}": array for suffix, array in encode(word, matrix).items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(SMALL))
    quantization = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    (folder / QUANT_FILE).write_text(json.dumps({"quantization": quantization}))
    return folder


def change(folder: Path, name: str, edit: Callable[[Array], Array]) -> None:
    """Edit one tensor of a checkpoint where it lies."""
    for path in folder.glob("*.safetensors"):
        with Shard.open(path) as shard:
            if name not in shard.tensors:
                continue
            begin, array = shard.info(name).begin, edit(shard.read(name).copy())
        with path.open("r+b") as file:
            file.seek(begin)
            file.write(array.tobytes())


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
