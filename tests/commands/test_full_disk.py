"""Commands whose files find a full disk: what was there stays, and what was measured is told all the same."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import run

ROOT = Path(__file__).parents[2]
FEW = ("--problems", 1, "--timed", 1, "--repeats", 1, "--max-new-tokens", 4, "--modes", "ar")


def full_disk(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command that can write no more than ten bytes into a file."""
    return subprocess.run(
        [sys.executable, "-m", "ttc", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)),
    )


@pytest.mark.parametrize("option", ["-o", "--report"])
def test_bench_keeps_the_old_file_and_tells_what_it_measured(tiny: Path, tmp_path: Path, option: str) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    done = full_disk("bench", tiny, *FEW, option, target, "--json")
    assert done.returncode == 1
    assert "file: cannot be written (File too large); what was there is as it was" in done.stderr
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert json.loads(done.stdout)["cases"]


@pytest.mark.parametrize(("option", "name"), [("--trace", "a.json"), ("--plot", "a.svg")])
def test_profile_does_so_too(
    tiny: Path, tmp_path: Path, option: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / name
    target.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    done = run("profile", tiny, "--repeats", 1, option, target, "--json")
    assert (done.exit_code, target.read_text()) == (1, "old")
    assert json.loads(done.stdout)["phases"]


def test_profile_needs_room_for_what_the_library_writes(tiny: Path) -> None:
    done = full_disk("profile", tiny, "--repeats", 1)
    assert done.returncode == 1
    assert "ONNX Runtime could not write its profile; is the disk full?" in done.stderr


def test_generated_texts_are_told(tiny: Path, tmp_path: Path) -> None:
    source, target, picture = tmp_path / "in.txt", tmp_path / "out.jsonl", tmp_path / "a.svg"
    source.write_text("5 6\n7\n")
    target.write_text("old")
    done = full_disk(
        "generate", tiny, "--prompts", source, "--token-ids", "--max-new-tokens", 4, "-o", target
    )
    assert (done.returncode, target.read_text()) == (1, "old")
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [0, 1]
    done = full_disk("generate", tiny, "5", "--ids", "--max-new-tokens", 4, "--save-steps", picture, "--json")
    assert (done.returncode, picture.exists()) == (1, False)
    assert json.loads(done.stdout)["prompt_tokens"] == 1


def test_verify_says_that_its_record_is_an_old_one(tiny: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny, tmp_path / "own.bundle")
    few = ("verify", bundle, "--backend", "onnxruntime", "--max-new-tokens", 4)
    assert run(*few).exit_code == 0
    before = (bundle / "verification.json").read_bytes()
    done = full_disk(*few, "--json")
    assert done.returncode == 1
    assert "verification.json: cannot be written (File too large); what was there is as it was" in done.stderr
    assert (bundle / "verification.json").read_bytes() == before
    assert json.loads(done.stdout)["passed"]


@pytest.mark.parametrize(
    "words",
    [
        ("bench", "-o"),
        ("bench", "--report"),
        ("generate", "--prompts", "in.txt", "-o"),
        ("generate", "5", "--save-steps"),
        ("demo", "--save-steps"),
        ("profile", "--plot"),
    ],
    ids=" ".join,
)
def test_a_folder_that_is_not_there_is_told_before_the_work(words: tuple[str, ...], tmp_path: Path) -> None:
    command, *rest = words
    bundle = [] if command == "demo" else [tmp_path / "no.bundle"]
    done = run(command, *bundle, *rest, tmp_path / "no" / "file.svg")
    assert done.exit_code == 1
    assert "file.svg: its folder does not exist; make it, or choose another" in done.stderr
