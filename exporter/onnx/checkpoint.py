"""A TwoTower checkpoint folder in the Hugging Face layout: checked against its own `config.json`, its
tensors read one by one when they are asked for.

The folder holds `config.json`, perhaps `generation_config.json` and `tokenizer.json`, and the weights:
`model.safetensors`, or shards beside `model.safetensors.index.json`. Which tensors must be there, and their
shapes, follow from `config.json`. Files may be symbolic links (as in the Hugging Face cache), but their
names are plain file names in the folder.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Self

from ttc.base.files import read_bounded
from ttc.base.names import COMPUTE_DTYPES
from ttc.errors import CheckpointError
from ttc.formats.quant_config.files import read_scheme
from ttc.formats.shard import Array, Shard, TensorInfo
from ttc.formats.strictjson import quoted, read_json
from ttc.formats.tokenizer import MAX_TOKENIZER_BYTES, open_tokenizer
from ttc.model.config import ModelConfig
from ttc.model.matching import Matched, match_weights
from ttc.model.weights import first_of

__all__ = ["Checkpoint"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SINGLE_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
_MAX_CONFIG_BYTES = 4 * 2**20
_MAX_INDEX_BYTES = 16 * 2**20


def _elsewhere(folder: Path) -> str:
    """Return where a checkpoint that is not here may be had."""
    if _HUB_NAME.fullmatch(folder.as_posix()) and not folder.parent.exists():
        name = folder.name
        return (
            f". If this is a model of huggingface.co, download it first: hf download {folder.as_posix()} "
            f"--local-dir {name}, then give {name} (docs/released-model.md)"
        )
    return (
        "; `miniature` is the one that comes with ttc, docs/released-model.md says where the released one is"
    )


class Checkpoint:
    """An open checkpoint, all its tensor headers checked. Reading is thread-safe.

    Attributes:
        folder: where it lies.
        config: the model.
        tokenizer_path: of tokenizer.json; None without one.
        shards: file name → shard.
        weights: name → weight of the graphs, context tower first (`ttc.model.matching.match_weights`).
        matrices: the same, where each quantised matrix is one weight, decoded from all its tensors.
        notes: what of it is not used, a sentence each.
    """

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        tokenizer_path: Path | None,
        shards: Mapping[str, Shard],
        found: Matched,
    ) -> None:
        self.folder = folder
        self.config = config
        self.tokenizer_path = tokenizer_path
        self.shards = MappingProxyType(dict(shards))
        self.weights = MappingProxyType(dict(found.weights))
        self.matrices = MappingProxyType(dict(found.matrices))
        self.notes = tuple(_notes(found))
        self._owner = {name: shard for shard in shards.values() for name in shard.tensors}

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Check the checkpoint in `folder` and open it.

        Raises:
            CheckpointError: one of its files has a defect; it is named.
        """
        folder = Path(folder)
        try:
            return cls._open(folder)
        except OSError as fault:
            raise CheckpointError(f"{folder}: cannot be read ({fault.strerror})") from None

    @classmethod
    def _open(cls, folder: Path) -> Self:
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder}: no such folder; a checkpoint is a folder with config.json and .safetensors files"
                f"{_elsewhere(folder)}"
            )
        config, scheme = _config(folder), read_scheme(folder)
        shards: dict[str, Shard] = {}
        try:
            placed = _index(folder)
            for name in dict.fromkeys(placed.values()) if placed is not None else (_SINGLE_FILE,):
                shards[name] = Shard.open(folder / name)
            stored, misplaced = _stored(folder, shards, placed)
            found = match_weights(config, stored, misplaced, str(folder), scheme)
            _check_unused(found.unused, shards)
            _check_shapes(found.shapes, shards)
            tokenizer = folder / "tokenizer.json"
            present = tokenizer if os.path.lexists(tokenizer) else None  # a link to nothing is an error
            if present is not None:
                _check_tokenizer(present, config)
            return cls(folder, config, present, shards, found)
        except BaseException:
            for shard in shards.values():
                shard.close()
            raise

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all tensors as stored."""
        return tuple(self._owner)

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(info.nbytes for shard in self.shards.values() for info in shard.tensors.values())

    @property
    def default_dtype(self) -> str:
        """The compute dtype that `config.json` names.

        Raises:
            CheckpointError: nothing can be computed in it.
        """
        if self.config.dtype not in COMPUTE_DTYPES:
            raise CheckpointError(
                f"{self.folder / 'config.json'}: torch_dtype is {quoted(self.config.dtype)}, which is no "
                "compute dtype; "
                "choose float32, float16 or bfloat16 with --dtype"
            )
        return self.config.dtype

    def info(self, name: str) -> TensorInfo:
        """Return dtype, shape and offset of the stored tensor `name`."""
        return self._shard(name).info(name)

    def read(self, name: str) -> Array:
        """Return the stored tensor `name`, read-only, in memory of its own."""
        return self._shard(name).read(name)

    def _shard(self, name: str) -> Shard:
        if name not in self._owner:
            raise CheckpointError(f"{self.folder}: no tensor {quoted(name)} among its {len(self._owner)}")
        return self._owner[name]

    def close(self) -> None:
        """Close all files."""
        for shard in self.shards.values():
            shard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _notes(found: Matched) -> list[str]:
    notes = []
    if found.unused:
        which = f"{len(found.unused)} scales of activations and caches ({first_of([*found.unused], 1)})"
        notes.append(f"{which} are not used: activations and caches stay in the compute dtype")
    if found.decoded:
        which = f"{len(found.decoded)} stacks of experts ({first_of([*found.decoded], 1)})"
        notes.append(
            f"{which} are decoded while they are read: there is no op for their format, or not for both "
            "formats of a layer or tower"
        )
    return notes


def _check_unused(names: Sequence[str], shards: Mapping[str, Shard]) -> None:
    """Scales of activations and caches are not used, but a checkpoint with a broken one is not trusted."""
    owner = {name: shard for shard in shards.values() for name in shard.tensors}
    for name in names:
        value = float(owner[name].read(name).reshape(-1)[0])
        if not math.isfinite(value) or value <= 0:
            raise CheckpointError(f"{owner[name].path}: {name} is {value:g}, a finite number above 0 is due")


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], shards: Mapping[str, Shard]) -> None:
    """Where a tensor says the shape of a packed matrix again, both must be one."""
    owner = {name: shard for shard in shards.values() for name in shard.tensors}
    for name, due in shapes.items():
        said = tuple(owner[name].read(name).tolist())
        if said != due:
            raise CheckpointError(f"{owner[name].path}: {name} says {list(said)}, the matrix is {list(due)}")


def _config(folder: Path) -> ModelConfig:
    path, generation = folder / "config.json", folder / "generation_config.json"
    if not path.exists():
        raise CheckpointError(
            f"{path}: missing; a checkpoint is a folder with config.json and .safetensors files"
        )
    return ModelConfig.from_hf(
        _json_object(path), _json_object(generation) if os.path.lexists(generation) else None, where=str(path)
    )


def _json_object(path: Path) -> dict[str, object]:
    value = read_json(path, _MAX_CONFIG_BYTES, CheckpointError, allow_infinity=True)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: a JSON object is due, found {quoted(value)}")
    return value


def _index(folder: Path) -> dict[str, str] | None:
    """Return tensor → file name by the index; None where one file holds all.

    As in transformers, that one file is preferred to an index.
    """
    single, path = folder / _SINGLE_FILE, folder / _INDEX_FILE
    if single.exists():
        return None
    if not path.exists():
        raise CheckpointError(
            f"{folder}: neither {_SINGLE_FILE} nor {_INDEX_FILE} is there; only .safetensors checkpoints "
            "are read"
        )
    index = read_json(path, _MAX_INDEX_BYTES, CheckpointError)
    placed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(
            f"{path}: 'weight_map' is {quoted(placed)}, an object of tensor name → file name is due"
        )
    for tensor, name in placed.items():
        if not _is_plain_name(name):
            raise CheckpointError(
                f"{path}: tensor {quoted(tensor)} is said to lie in {quoted(name)}, the plain name of a "
                ".safetensors file in this folder is due"
            )
    names = sorted(set(placed.values()))
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise CheckpointError(f"{folder}: {len(missing)} of {len(names)} shards missing: {first_of(missing)}")
    return placed


def _is_plain_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and len(name.encode(errors="replace")) <= 255
        and name.isprintable()
        and not set(name) & set("/\\:")
    )


def _stored(
    folder: Path, shards: Mapping[str, Shard], placed: Mapping[str, str] | None
) -> tuple[dict[str, TensorInfo], list[str]]:
    """Return all tensors of all shards, and where an index says otherwise.

    Raises:
        CheckpointError: a name is in two shards.
    """
    stored: dict[str, TensorInfo] = {}
    owner: dict[str, str] = {}
    for file, shard in shards.items():
        for name, info in shard.tensors.items():
            if name in owner:
                raise CheckpointError(
                    f"{folder}: tensor {quoted(name)} lies in two shards, {owner[name]} and {file}"
                )
            stored[name], owner[name] = info, file
    placed = owner if placed is None else placed
    return stored, [
        f"{name} (index: {placed.get(name, 'not there')}; found in: {owner.get(name, 'no shard')})"
        for name in {**placed, **owner}
        if placed.get(name) != owner.get(name)
    ]


def _check_tokenizer(path: Path, config: ModelConfig) -> None:
    """The tokenizer must be readable and know no id that the model does not."""
    raw = read_bounded(path, MAX_TOKENIZER_BYTES, CheckpointError)
    ids = open_tokenizer(raw, str(path), CheckpointError).get_vocab(with_added_tokens=True)
    if ids and max(ids.values()) >= config.vocab_size:
        token, highest = max(ids.items(), key=lambda item: item[1])
        raise CheckpointError(
            f"{path}: token {quoted(token)} has the id {highest}, but the model's vocab_size is "
            f"{config.vocab_size}; "
            "this tokenizer belongs to another model"
        )
