"""`ttc generate --show-steps`: lines where nothing can be redrawn, a picture on a terminal."""

import json
from pathlib import Path

import pytest

import ttc
from tests.support.command_line import ask, run, step_lines
from tests.support.terminal import needs_terminal, on_terminal


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


@needs_terminal
def test_on_a_terminal_the_block_is_drawn_and_stdout_stays_clean(tiny: Path) -> None:
    arguments = ["generate", str(tiny), "5 6 7", "--ids", "--max-new-tokens", "16", "--no-stop-at-eos"]
    code, stdout, shown = on_terminal([*arguments, "--show-steps"], columns=90, seconds=60)
    found = ask(*arguments)
    assert code == 0
    assert stdout == " ".join(map(str, found["token_ids"])) + "\n"
    assert "block   0  step  0  16 masked" in shown
    assert f"block   0  done in {found['nfe']:2} steps" in shown
    assert "□" in shown
    assert "\x1b[1A" in shown, "the picture is drawn over itself"
    assert " | " not in shown
