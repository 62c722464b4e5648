"""Everything in the folder that is no tensor: what is copied, and what says how it was quantised."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ttc.errors import CheckpointError
from ttc.exporter.onnx.checkpoint import Checkpoint
from ttc.formats.quant_config.files import QUANT_FILE
from ttc.formats.strictjson import quoted, read_json
from ttc.quantize.modelopt import quant_config, with_quantization
from ttc.quantize.plan import QuantizePlan
from ttc.quantize.record import RECORD_FILE, Record

__all__ = ["COPIED", "MAX_CONFIG_BYTES", "write_texts"]

# Tokenizer, code, licence: what may lie in a checkpoint's folder beside the tensors.
COPIED = re.compile(r"[^.].*\.(json|py|txt|md|model|jinja|tiktoken)|(LICEN[CS]E|NOTICE).*")
MAX_CONFIG_BYTES = 4 * 2**20
_CONFIG, _INDEX, _CARD = "config.json", "model.safetensors.index.json", "README.md"
_MAX_COPIED_BYTES = 256 * 2**20


def write_texts(source: Checkpoint, plan: QuantizePlan, record: Record, folder: Path) -> None:
    """Write all of it into `folder`, but for the record itself."""
    for path in _copied(source.folder):
        name = "README-original.md" if path.name == _CARD else path.name
        shutil.copyfile(path, folder / name)
    where = source.folder / _CONFIG
    hf_config = read_json(where, MAX_CONFIG_BYTES, CheckpointError, allow_infinity=True)
    if not isinstance(hf_config, dict):
        raise CheckpointError(f"{where}: a JSON object is due, found {quoted(hf_config)}")
    _json(folder / _CONFIG, with_quantization(hf_config, plan, source.config))
    _json(folder / QUANT_FILE, quant_config(plan, source.config))
    if len(plan.files) > 1:
        size = sum(piece.written_bytes for piece in plan.pieces)
        _json(folder / _INDEX, {"metadata": {"total_size": size}, "weight_map": dict(plan.file_of)})
    (folder / _CARD).write_text(record.card(), encoding="utf-8")


def _copied(folder: Path) -> Iterator[Path]:
    """Yield the files that go along as they are."""
    own = (_CONFIG, _INDEX, QUANT_FILE, RECORD_FILE)
    for path in sorted(folder.iterdir()):
        if path.name in own or not COPIED.fullmatch(path.name) or path.is_dir():
            continue
        if not path.is_file():
            raise CheckpointError(f"{path}: no regular file, or a link to nothing; bring it, or remove it")
        if path.stat().st_size > _MAX_COPIED_BYTES:
            raise CheckpointError(f"{path}: more than {_MAX_COPIED_BYTES} bytes for a file without tensors")
        yield path


def _json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
