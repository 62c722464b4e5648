"""Export the miniature that comes with the package, for `ttc/miniature/bundle`.

    python -m examples.miniature.bundle

Run it after the weights, or what the exporter writes, have changed; `tests/demo/test_shipped.py` says when.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import ttc
from ttc.formats.manifest import MANIFEST_FILE, Manifest
from ttc.formats.shipped import shipped_checkpoint

__all__ = ["exported", "main"]


def exported() -> dict[str, bytes]:
    """Return the files of the bundle by name, as `ttc export` writes them: in float32, by reference.

    Without the tokenizer, which lies beside the weights, and without what is of this machine alone: where the
    weights lie and when they were written.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = ttc.export(shipped_checkpoint(), Path(folder) / "miniature.bundle", "float32", pack=False)
        files = {path.name: path.read_bytes() for path in sorted(made.iterdir())}
    manifest = Manifest.from_json(files[MANIFEST_FILE])
    shards = {
        name: dataclasses.replace(record, mtime_ns=0) for name, record in manifest.weights.shards.items()
    }
    weights = dataclasses.replace(manifest.weights, root="/miniature", shards=shards)
    del files["tokenizer.json"]
    return files | {MANIFEST_FILE: dataclasses.replace(manifest, weights=weights).to_json()}


def main() -> None:
    """Write the folder anew."""
    folder = shipped_checkpoint() / "bundle"
    folder.mkdir(exist_ok=True)
    files = exported()
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    sys.stdout.write(f"wrote {folder}: {', '.join(files)}\n")


if __name__ == "__main__":
    main()
