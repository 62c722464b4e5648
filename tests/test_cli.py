"""The command line: what it prints where, how it exits, and what a user can get wrong."""

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import ttc
from ttc.cli import COMMANDS, program

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "golden" / "tiny_a"
Bundles = Callable[..., Path]
JSON_KEYS = {
    "token_ids", "text", "finish_reason", "prompt_tokens", "nfe", "nfe_per_block", "tokens_per_nfe",
    "context_calls", "seconds", "tokens_per_second", "backend", "mode", "backend_seconds", "seed", "notes",
}  # fmt: skip


def run(*arguments: object, **options: Any) -> Result:
    return CliRunner().invoke(program, [str(a) for a in arguments], prog_name="ttc", **options)


def ask(*arguments: object, **options: Any) -> dict[str, Any]:
    """Run with --json; standard output must be one object and nothing else."""
    done = run(*arguments, "--json", **options)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def refused(*arguments: object, **options: Any) -> str:
    """Run what must be refused in one line; returns the line."""
    done = run(*arguments, **options)
    lines = done.stderr.splitlines()
    errors = [line for line in lines if not line.startswith("warning: ")]
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    return errors[0]


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ttc", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="session")
def tiny(bundles: Bundles) -> Path:
    """A bundle without tokenizer."""
    return bundles("tiny_a")


@pytest.fixture(scope="session")
def mini(bundles: Bundles) -> Path:
    """A bundle with tokenizer, in bfloat16."""
    return bundles("miniature", None)


# The program.


def test_version() -> None:
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"ttc {ttc.__version__}\n")


def test_help_names_every_command() -> None:
    assert "\n  ttc demo  " in run("--help").stdout
    listed = run("--help").stdout.partition("Commands:")[2]
    assert re.findall(r"^  (\w+)", listed, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert run(command, "--help").stdout.startswith(f"Usage: ttc {command} ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["generate"],
        ["generate", "b", "p", "--mode", "magic"],
        ["generate", "b", "p", "--steps", "many"],
        ["export", "c"],
        ["export", "c", "-o", "b", "--dtype", "int8"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Error: " in done.stderr


def failing(fault: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise fault

    return fail


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `ttc doctor` raise."""
    monkeypatch.delenv("TTC_DEBUG", raising=False)
    return lambda fault: monkeypatch.setattr("ttc.doctor.examine", failing(fault))


def test_a_bug_is_one_line_and_exits_70(broken: Callable[[BaseException], None]) -> None:
    broken(ZeroDivisionError("two\nlines \x1b[31m"))
    done = run("doctor")
    assert done.exit_code == 70
    assert done.stderr == (
        "internal error: ZeroDivisionError: two\\nlines \\x1b[31m (a bug of ttc; TTC_DEBUG=1 shows where)\n"
    )


def test_a_bug_is_a_traceback_in_debugging(
    broken: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(ZeroDivisionError())
    monkeypatch.setenv("TTC_DEBUG", "1")
    assert isinstance(run("doctor").exception, ZeroDivisionError)


def test_an_interrupt_exits_130(broken: Callable[[BaseException], None]) -> None:
    broken(KeyboardInterrupt())
    done = run("doctor")
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")


def test_a_warning_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn() -> dict[str, Any]:
        for _ in range(2):
            logging.getLogger("ttc.somewhere").warning("beware of %s", "this")
        logging.getLogger("ttc.somewhere").info("not told")
        return {}

    monkeypatch.setattr("ttc.doctor.examine", warn)
    done = run("doctor", "--json")
    assert done.stderr == "warning: beware of this\n"
    assert not [h for h in logging.getLogger("ttc").handlers if type(h).__module__ == "ttc.cli"]


def test_a_closed_pipe_is_no_bug(tiny: Path) -> None:
    command = f'"{sys.executable}" -m ttc inspect "{tiny}" --json | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1)
    assert done.stderr == ""


# ttc export


def test_export_says_what_it_made(tmp_path: Path) -> None:
    done = run("export", TINY, "-o", tmp_path / "b", "--reference", "--dtype", "float16")
    assert done.exit_code == 0, done.stderr
    assert re.fullmatch(
        rf"{re.escape(str(tmp_path / 'b'))}: [\d.]+ KiB, float16, weights by reference to "
        rf"{re.escape(str(TINY))}, [\d.]+ s\n",
        done.stdout,
    )
    assert "writing context.onnx\n" in done.stderr
    again = refused("export", TINY, "-o", tmp_path / "b")
    assert "exists already" in again
    assert "--force" in again


def test_export_as_json(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    given: list[object] = []

    def export(*arguments: object, pack: bool | None, progress: Callable[[str], None]) -> Path:
        given.extend([*arguments, pack])
        progress("not told")
        return tiny

    monkeypatch.setattr("ttc.exporter.export.export", export)
    done = run("export", "c", "-o", "b", "--pack", "--force", "--json")
    assert given == [Path("c"), Path("b"), None, True, True]
    found = json.loads(done.stdout)
    assert done.stderr == ""
    assert found.pop("seconds") >= 0
    assert found == {
        "bundle": str(tiny),
        "size_bytes": sum(path.stat().st_size for path in tiny.iterdir()),
        "compute_dtype": "float32",
        "weights": "packed",
        "checkpoint": None,
    }


def test_export_of_what_is_no_checkpoint(tmp_path: Path) -> None:
    assert "config.json: missing" in refused("export", tmp_path, "-o", tmp_path / "b")
    assert "no such folder" in refused("export", tmp_path / "not", "-o", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_export_without_torch(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from ttc.cli import main; main()"
    command = [sys.executable, "-c", code, "export", str(TINY), "-o", str(tmp_path / "b")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: exporting needs torch")
    assert "pip install" in done.stderr


@pytest.mark.parametrize("wait_for", ["tracing embedding", "tracing context layer"])
def test_an_interrupted_export_leaves_nothing(tmp_path: Path, wait_for: str) -> None:
    process = start("export", TINY, "-o", tmp_path / "b")
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if line.startswith(wait_for):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1] == f"interrupted; {tmp_path / 'b'} is as it was before"
    assert "Traceback" not in seen + stderr
    assert list(tmp_path.iterdir()) == []


# ttc generate


@pytest.mark.parametrize("mode", ["diffusion", "ar", "mock-ar"])
@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_generate_json_is_what_the_engine_gives(tiny: Path, mode: str, backend: str) -> None:
    arguments = ["generate", tiny, "5 6 7", "--ids", "--mode", mode, "--backend", backend]
    found = ask(*arguments, "--max-new-tokens", 20, "--no-stop-at-eos")
    assert set(found) >= JSON_KEYS
    with ttc.load(tiny, backend) as engine:
        result = engine.generate([5, 6, 7], mode=mode, max_new_tokens=20, stop_at_eos=False)
    assert isinstance(result, ttc.Result)
    assert found["token_ids"] == list(result.token_ids)
    assert found["text"] is None
    assert (found["mode"], found["backend"], found["prompt_tokens"]) == (mode, backend, 3)
    assert (found["nfe"], found["finish_reason"]) == (result.stats.nfe, "length")
    assert found["nfe_per_block"] == list(result.stats.nfe_per_block)
    assert found["context_calls"] == result.stats.context_calls
    assert (found["tokens_per_nfe"] is None) == (mode == "ar")


def test_options_reach_the_engine(tiny: Path) -> None:
    same = ["generate", tiny, "5 6", "--ids", "--max-new-tokens", 16, "--no-stop-at-eos"]
    assert ask(*same, "--steps", 1)["nfe_per_block"] == [1]
    assert ask(*same, "--threshold", 1)["nfe_per_block"] == [16]
    assert len(ask(*same, "--block-size", 8)["nfe_per_block"]) == 2
    sampled = [*same, "--mode", "ar", "--temperature", 1.5]
    tokens = ask(*sampled, "--seed", 11)
    assert tokens["seed"] == 11
    assert ask(*sampled, "--seed", 11)["token_ids"] == tokens["token_ids"]
    assert ask(*sampled, "--seed", 12)["token_ids"] != tokens["token_ids"]
    assert ask(*sampled, "--seed", 12, "--top-k", 1)["token_ids"] == ask(*same, "--mode", "ar")["token_ids"]


def test_text_goes_to_stdout_and_figures_to_stderr(mini: Path) -> None:
    done = run("generate", mini, "Question: 1+1\nAnswer:", "--max-new-tokens", 20)
    found = ask("generate", mini, "Question: 1+1\nAnswer:", "--max-new-tokens", 20)
    assert done.stdout == found["text"] + "\n"
    warning, figures = done.stderr.splitlines()
    assert warning.startswith("warning: the bundle's bfloat16 graphs")
    assert f"{len(found['token_ids'])} tokens in " in figures
    assert f"; {found['nfe']} NFE, " in figures
    assert figures.endswith(f"; ended by {found['finish_reason']}")
    assert found["notes"] == [warning.removeprefix("warning: ")]


def test_ids_are_read_and_written(mini: Path, tiny: Path) -> None:
    for bundle in (mini, tiny):
        done = run("generate", bundle, " 5\n6  7 ", "--ids", "--max-new-tokens", 8)
        found = ask("generate", bundle, "5 6 7", "--ids", "--max-new-tokens", 8)
        assert done.stdout == " ".join(map(str, found["token_ids"])) + "\n"


def test_a_prompt_from_stdin(mini: Path) -> None:
    same = ["--max-new-tokens", 16]
    from_argument = ask("generate", mini, "Question:\n", *same)
    assert ask("generate", mini, "-", *same, input="Question:\n\n")["token_ids"] == from_argument["token_ids"]
    assert ask("generate", mini, "-", "--ids", *same, input="5 6\n")["prompt_tokens"] == 2
    assert "not UTF-8" in refused("generate", mini, "-", input=b"\xff")


def test_no_new_tokens(tiny: Path) -> None:
    done = run("generate", tiny, "5", "--ids", "--max-new-tokens", 0)
    assert (done.exit_code, done.stdout) == (0, "\n")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--mode", "lossless", "--draft-steps", "0"], "draft_steps is 0; valid"),
        (["--mode", "lossless", "--draft-steps", "some"], "draft_steps is 'some'; valid"),
        (
            ["--backend", "tensorrt"],
            "engines.json: missing; a set of engines is a folder made by `ttc build`",
        ),
        (["--engines", "."], "backend 'onnxruntime' runs no engines"),
        (["--graph-level", "1"], "backend 'onnxruntime' has no CUDA graphs"),
        (["--device", "toaster"], "'toaster'; valid: cpu"),
        (["--threshold", "1.5"], "threshold is 1.5; valid"),
        (["--threshold", "nan"], "threshold is nan; valid"),
        (["--steps", "0"], "steps is 0; valid"),
        (["--block-size", "0"], "block_size is 0; valid"),
        (["--max-new-tokens", "-1"], "max_new_tokens is -1; valid"),
        (["--temperature", "-1"], "temperature is -1.0; valid"),
        (["--top-k", "5"], "top_k"),
        (["--capacity", "0"], "capacity is 0; valid"),
        (["--capacity", "4"], "the capacity is 4"),
        (["--seed", "-1"], "seed is -1; valid"),
        (["--checkpoint", "."], "packed"),
    ],
)
def test_nonsense_options(tiny: Path, options: list[str], named: str) -> None:
    assert named in refused("generate", tiny, "5 6", "--ids", *options)


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("", "empty"),
        ("5 x", "word 1 of the prompt is 'x'"),
        ("5 " + "9" * 5000, "word 1 of the prompt is '999"),
        ("5 -1", "token id -1"),
        ("5 99999", "token id 99999"),
    ],
)
def test_nonsense_ids(tiny: Path, prompt: str, named: str) -> None:
    assert named in refused("generate", tiny, prompt, "--ids")


def test_text_for_a_bundle_without_tokenizer(tiny: Path) -> None:
    assert "no tokenizer.json" in refused("generate", tiny, "Hello")


def test_text_that_is_no_text(mini: Path) -> None:
    assert "the prompt is not UTF-8" in refused("generate", mini, "a\udcff")


def test_what_is_no_bundle(tmp_path: Path) -> None:
    assert "no such folder" in refused("generate", tmp_path / "two\nlines", "x")
    assert "not a bundle" in refused("generate", tmp_path, "x")


def test_a_damaged_bundle(tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "b")
    raw = bytearray((copy / "step.onnx").read_bytes())
    raw[-1] ^= 1
    (copy / "step.onnx").write_bytes(raw)
    for command in (["generate", copy, "5", "--ids"], ["inspect", copy]):
        assert "step.onnx: its content is not what was exported" in refused(*command)


# ttc generate --show-steps


def step_lines(done: Result) -> list[str]:
    assert done.exit_code == 0, done.stderr
    return [line for line in done.stderr.splitlines() if " | " in line]


@pytest.mark.parametrize("mode", ["diffusion", "ar", "mock-ar"])
def test_steps_are_the_same_lines_every_time(tiny: Path, mode: str) -> None:
    same = ["generate", tiny, "5 6 7", "--ids", "--mode", mode, "--max-new-tokens", 20, "--no-stop-at-eos"]
    first, second = (run(*same, "--show-steps") for _ in range(2))
    found = ask(*same)
    lines = step_lines(first)
    assert lines == step_lines(second)
    assert first.stdout == " ".join(map(str, found["token_ids"])) + "\n"
    assert "ended by length" in first.stderr.splitlines()[-1]
    if mode == "diffusion":
        assert len([line for line in lines if " step " in line]) == found["nfe"]
        assert len([line for line in lines if " done in " in line]) == len(found["nfe_per_block"])
    else:
        assert len(lines) == 20


def test_options_are_refused_before_the_weights_are_loaded(mini: Path) -> None:
    """One line: no word yet of how the model would have been loaded."""
    for wrong in (["--threshold", "2"], ["--draft-steps", "0"], ["--max-new-tokens", "-3"]):
        done = run("generate", mini, "1+1", *wrong)
        assert done.exit_code == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_steps_and_json_go_together(tiny: Path) -> None:
    same = ["generate", tiny, "5 6 7", "--ids", "--max-new-tokens", 20]
    done = run(*same, "--show-steps", "--json")
    shown, plain = json.loads(done.stdout), ask(*same)
    assert step_lines(done)
    times = {"seconds", "tokens_per_second", "backend_seconds"}
    assert {k: v for k, v in shown.items() if k not in times} == {
        k: v for k, v in plain.items() if k not in times
    }


def test_steps_show_text(mini: Path) -> None:
    done = run("generate", mini, "Question: 1+1\nAnswer:", "--max-new-tokens", 24, "--show-steps")
    text = ask("generate", mini, "Question: 1+1\nAnswer:", "--max-new-tokens", 24)["text"]
    assert done.stdout == text + "\n"
    finished = [line.partition(" | ")[2] for line in step_lines(done) if " done in " in line]
    assert "".join(finished) == text.replace("\n", "⏎")


def test_steps_say_why_they_ended(tiny: Path) -> None:
    with ttc.load(tiny) as engine:
        ends = engine.config.eos_token_ids
        result = engine.generate([5, 6], mode="ar", max_new_tokens=200)
    assert isinstance(result, ttc.Result)
    done = run("generate", tiny, "5 6", "--ids", "--mode", "ar", "--max-new-tokens", 200, "--show-steps")
    assert done.stderr.rstrip().endswith(f"ended by {result.finish_reason}")
    assert (int(done.stdout.split()[-1]) in ends) == (result.finish_reason == "eos")


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_on_a_terminal_the_block_is_drawn_and_stdout_stays_clean(tiny: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    arguments = ["generate", str(tiny), "5 6 7", "--ids", "--max-new-tokens", "16", "--no-stop-at-eos"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ttc", *arguments, "--show-steps"],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "90", "LINES": "20"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # how a pseudo-terminal says that the other end is closed
        while piece := os.read(ours, 4096):
            drawn += piece
    os.close(ours)
    stdout, _ = process.communicate(timeout=60)
    found = ask(*arguments)
    assert process.returncode == 0
    assert stdout.decode() == " ".join(map(str, found["token_ids"])) + "\n"
    shown = drawn.decode()
    assert "block   0  step  0  16 masked" in shown
    assert f"block   0  done in {found['nfe']:2} steps" in shown
    assert "□" in shown
    assert "\x1b[1A" in shown, "the picture is drawn over itself"
    assert " | " not in shown


# ttc demo


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
    done = run("demo", "--prompts", 2)
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


# All of it.


def test_every_json_option_is_called_json() -> None:
    commands = [getattr(import_module(f"ttc.commands.{name}"), name) for name in COMMANDS]
    groups = [command for command in commands if isinstance(command, click.Group)]
    inner = [command for group in groups for command in group.commands.values()]
    for command in (command for command in [*commands, *inner] if command not in groups):
        assert isinstance(command, click.Command)
        assert any("--json" in parameter.opts for parameter in command.params), command.name
