"""The chat template of a checkpoint: where it may stand, what is refused, and that bundles carry it."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest

import ttc
from ttc.exporter.onnx.chat_template import chat_template
from ttc.formats.manifest import FileRecord, Manifest


def test_where_it_stands(tmp_path: Path) -> None:
    assert chat_template(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text("{}")
    assert chat_template(tmp_path) is None
    config.write_text(json.dumps({"chat_template": "{{ one }}"}))
    assert chat_template(tmp_path) == "{{ one }}"
    several = [{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]
    config.write_text(json.dumps({"chat_template": several}))
    assert chat_template(tmp_path) == "b"
    (tmp_path / "chat_template.jinja").write_text("{{ file }}")
    assert chat_template(tmp_path) == "{{ file }}"


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": 1}))
    with pytest.raises(ttc.CheckpointError, match="chat_template is 1"):
        chat_template(tmp_path)
    file = tmp_path / "chat_template.jinja"
    file.write_bytes(b"\xff")
    with pytest.raises(ttc.CheckpointError, match="not UTF-8"):
        chat_template(tmp_path)
    file.write_text("x" * (1 << 20) + "x")
    with pytest.raises(ttc.CheckpointError, match="more than"):
        chat_template(tmp_path)


def test_a_bundle_brings_it(tiny: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny, tmp_path / "chatty.bundle"))
    text = b"{{ messages[0].content }}"
    (copy / "chat_template.jinja").write_bytes(text)
    with ttc.load(copy) as engine:
        assert engine.chat_template is None, "the manifest does not name it"
    manifest = Manifest.from_json((copy / "bundle.json").read_bytes())
    record = FileRecord(hashlib.sha256(text).hexdigest(), len(text))
    files = {**manifest.files, "chat_template.jinja": record}
    (copy / "bundle.json").write_bytes(dataclasses.replace(manifest, files=files).to_json())
    with ttc.load(copy) as engine:
        assert engine.chat_template == text.decode()
