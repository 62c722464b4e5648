"""A bundle whose files are right and whose model is none is refused when it is opened."""

import dataclasses
import shutil

import pytest

from ttc.errors import BundleError
from ttc.formats.bundle import BundleFolder
from ttc.formats.manifest import MANIFEST_FILE, Manifest
from ttc.model.bundle import Bundle


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("colour", 1, "model: 1 unknown key"), ("vocab_size", 0, "model: vocab_size is 0")],
)
def test_a_model_that_is_none_is_refused(tiny, tmp_path, key, value, message):
    folder = shutil.copytree(tiny, tmp_path / "x.bundle")
    manifest = Manifest.from_json((folder / MANIFEST_FILE).read_bytes())
    changed = dataclasses.replace(manifest, model={**manifest.model, key: value})
    (folder / MANIFEST_FILE).write_bytes(changed.to_json())
    BundleFolder.open(folder).close()
    with pytest.raises(BundleError, match=f"x.bundle/bundle.json: {message}"):
        Bundle.open(folder)
