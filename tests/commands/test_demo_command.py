"""`ttc demo` as a command."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import ttc
from tests.support.command_line import JSON_KEYS, ask, refused, run, step_lines

ROOT = Path(__file__).parents[2]


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch, mini: Path) -> list[tuple[Path, Path, bool]]:
    """`ttc.export` replaced by a copy of a bundle made before; what it was asked for."""
    asked: list[tuple[Path, Path, bool]] = []

    def export(checkpoint: Path, output: Path, force: bool, progress: Callable[[str], None]) -> Path:
        asked.append((checkpoint, output, force))
        progress("copying")
        return shutil.copytree(mini, output, dirs_exist_ok=force)

    monkeypatch.setattr(ttc, "export", export)
    return asked


def test_demo_shows_steps_and_a_table(exports: list[tuple[Path, Path, bool]]) -> None:
    done = run("demo", "--prompts", 2, "--export")
    assert done.exit_code == 0, done.stderr
    (checkpoint, output, _), *others = exports
    assert not others
    assert checkpoint.joinpath("config.json").samefile(ROOT / "ttc" / "miniature" / "config.json")
    assert not output.exists()
    assert len([line for line in step_lines(done) if line.startswith("block   0  step  1 ")]) == 2
    rows = [line.split() for line in done.stdout.splitlines()]
    head = next(place for place, row in enumerate(rows) if row[:2] == ["mode", "tokens"])
    diffusion, ar = rows[head + 1], rows[head + 2]
    assert (diffusion[0], ar[0]) == ("diffusion", "ar")
    assert float(diffusion[3]) == pytest.approx(int(diffusion[1]) / int(diffusion[2]), abs=0.005)
    assert ar[2:4] == ["0", "–"]


def test_demo_without_an_export(
    exports: list[tuple[Path, Path, bool]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = run("demo", "--prompts", 1)
    assert done.exit_code == 0, done.stderr
    assert not exports
    assert "One prompt, the same for both modes" in done.stdout.splitlines()[-5]


def test_demo_as_json(exports: list[tuple[Path, Path, bool]], tmp_path: Path) -> None:
    found = ask("demo", "--prompts", 1, "--keep", tmp_path / "kept")
    assert found["bundle"] == str(exports[0][1])
    assert Path(found["bundle"]).is_relative_to(tmp_path / "kept")
    assert Path(found["bundle"], "bundle.json").exists()
    (one,) = found["runs"]
    assert set(one["diffusion"]) >= JSON_KEYS
    for mode, total in found["totals"].items():
        assert total["tokens"] == len(one[mode]["token_ids"])
        assert total["nfe"] == one[mode]["nfe"]
        assert total["tokens_per_second"] == pytest.approx(one[mode]["tokens_per_second"])
    picture = tmp_path / "steps.svg"
    ask("demo", "--prompts", 1, "--keep", tmp_path / "kept", "--save-steps", picture)
    assert picture.read_text(encoding="utf-8").startswith("<svg ")
    assert exports[1][2], "a second run must be allowed to replace the bundle"


@pytest.mark.parametrize("count", [0, 100_000])
def test_demo_with_a_wrong_number_of_prompts(count: int) -> None:
    assert f"--prompts is {count}; valid: 1 to " in refused("demo", "--prompts", count)


def test_demo_cannot_keep_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("demo", "--keep", tmp_path / "file")
    assert done.exit_code == 1
    assert "cannot be made" in done.stderr.splitlines()[-1]
