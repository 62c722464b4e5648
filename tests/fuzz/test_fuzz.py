"""Readers against hostile input: everything that was once found is refused or read, and so is a sample of new
mutations. `make fuzz` runs many more.
"""

from pathlib import Path

import pytest

from tests.fuzz.readers import READERS
from tests.fuzz.run import inputs, read_one
from tests.fuzz.seeds import CORPUS

FOUND = [path for path in sorted(CORPUS.glob("*/*")) if path.parent.name in READERS]


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
@pytest.mark.timeout(20)
def test_what_was_found_is_refused_in_one_line(path: Path, tmp_path: Path) -> None:
    what, fine = read_one(path.parent.name, path.read_bytes(), tmp_path)
    assert fine, what


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore")
def test_a_sample_of_mutations(reader: str, tmp_path: Path) -> None:
    unexpected = []
    for number, raw in enumerate(inputs(reader, 60, seed=0)):
        folder = tmp_path / str(number)
        folder.mkdir()
        what, fine = read_one(reader, raw, folder)
        unexpected += [] if fine else [what]
    assert not unexpected


def test_every_reader_reads_its_first_seed(tmp_path: Path) -> None:
    """Mutation of what is refused anyway would find little."""
    refused = []
    for reader in READERS:
        folder = tmp_path / reader
        folder.mkdir()
        what, _ = read_one(reader, next(inputs(reader, 1, seed=0)), folder)
        refused += [] if what == "read" else [f"{reader}: {what}"]
    assert not refused


def test_what_is_no_refusal_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def panic(raw: bytes, folder: Path) -> None:
        raise BaseException("a panic")

    monkeypatch.setattr("tests.fuzz.run.READERS", {"machine": panic})
    what, fine = read_one("machine", b"", tmp_path)
    assert not fine
    assert what.startswith("BaseException in test_fuzz.py")
