"""The JSON that other programs read: its keys and types stand here word by word."""

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ttc.bench.compare import compare
from ttc.bench.schema import SCHEMA_VERSION, Report, read_report
from ttc.bench.tables import compare_rows
from ttc.cli import program
from ttc.errors import InputError

ANSWERS = {
    "tokens", "nfe", "tokens_per_nfe", "context_calls", "ended_by_eos", "looping", "same_as_ar",
    "context_nll", "steps_per_block", "commit_order", "left_to_right", "quality", "broken", "why_broken",
    "digests",
}  # fmt: skip
SPEED = {
    "batch", "prompts", "tokens", "nfe", "seconds", "seconds_of_repeats", "seconds_per_answer",
    "tokens_per_second", "over_ar", "answer_over_ar", "tokens_per_nfe", "nfe_in_ar_steps", "first_output",
    "first_block", "between_blocks", "denoise_step", "extension", "ar_step",
}  # fmt: skip


def test_the_keys_of_version_3(report: Report) -> None:
    assert SCHEMA_VERSION == 3
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (plain["schema"], plain["schema_version"]) == ("ttc-bench", 3)
    assert set(plain) == {
        "schema", "schema_version", "machine", "conditions", "model", "work", "cases", "confidences",
    }  # fmt: skip
    assert set(plain["machine"]) == {
        "cpu", "cores", "memory_bytes", "gpus", "system", "python", "ttc_version", "commit", "packages",
    }  # fmt: skip
    assert set(plain["conditions"]) == {"started", "load_at_start", "load_at_end"}
    assert set(plain["model"]) == {
        "bundle", "weights_sha256", "compute_dtype", "pattern", "hidden_size", "backend", "device", "threads",
        "notes",
    }  # fmt: skip
    assert set(plain["work"]) == {
        "tasks", "problems", "prompts_sha256", "timed_prompts", "max_new_tokens", "temperature", "seed",
        "repeats", "batch_sizes",
    }  # fmt: skip
    for case in plain["cases"]:
        assert set(case) == {"name", "mode", "threshold", "steps", "block_size", "answers", "speed"}
        assert set(case["answers"]) == ANSWERS
        assert all(set(speed) == SPEED for speed in case["speed"])
        assert set(case["answers"]["quality"]) == {
            "correct", "problems", "accuracy", "interval", "of_ar", "by_task",
        }  # fmt: skip
    assert plain["cases"][1]["speed"][0]["first_block"] == {"p50": 0.01, "p95": 0.02}


def test_what_is_written_is_read(report: Report, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(report.to_dict()))
    assert read_report(file) == report


def test_a_run_of_version_2_is_read(report: Report, tmp_path: Path) -> None:
    """It had neither digests of answers nor confidences, and is compared without them."""
    plain = report.to_dict() | {"schema_version": 2}
    del plain["confidences"]
    for case in plain["cases"]:
        del case["answers"]["digests"]
    file = tmp_path / "run.json"
    file.write_text(json.dumps(plain))
    old = read_report(file)
    assert (old.confidences, [case.answers.digests for case in old.cases]) == (None, [None, None])
    for one in compare(old, report):
        assert (one.same_answers, one.same_text, one.confidence) == (True, None, None)


def _without(plain: dict[str, Any]) -> None:
    del plain["work"]["seed"]


def _unknown(plain: dict[str, Any]) -> None:
    plain["cases"][0]["mood"] = "good"


def _older(plain: dict[str, Any]) -> None:
    plain["schema_version"] = 1


def _mistyped(plain: dict[str, Any]) -> None:
    plain["cases"][1]["speed"][0]["seconds_of_repeats"] = ["fast"]


def _null(plain: dict[str, Any]) -> None:
    plain["cases"][1]["answers"]["tokens"] = None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_without, "work: the key 'seed' is missing"),
        (_unknown, "1 unknown key"),
        (_older, "'schema_version' is 1, 2 or 3 .* is due"),
        (_mistyped, 'seconds_of_repeats is "fast", float is due'),
        (_null, "answers: tokens is null, int is due"),
    ],
)
def test_what_is_no_report_is_refused(
    report: Report, tmp_path: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    plain = report.to_dict()
    change(plain)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(plain))
    with pytest.raises(InputError, match=complaint):
        read_report(file)


def test_runs_are_compared_case_by_case(report: Report) -> None:
    other = report.cases[1].speed[0]
    quicker = dataclasses.replace(other, seconds_of_repeats=(0.04, 0.05, 0.05), tokens_per_second=400.0)
    second = dataclasses.replace(
        report, cases=(report.cases[0], dataclasses.replace(report.cases[1], speed=(quicker,)))
    )
    same, faster = compare(report, second)
    assert (same.name, same.faster, same.clear, same.same_answers) == ("ar", 1.0, False, True)
    assert (faster.name, faster.faster, faster.clear) == ("diffusion γ0.9", 2.0, True)


@pytest.mark.parametrize(
    ("part", "key", "value", "complaint"),
    [
        ("model", "weights_sha256", "ef" * 32, r"their weights differ \(abababababab…, efefefefefef…\)"),
        ("work", "prompts_sha256", "ef" * 32, "their prompts or problems differ"),
        ("work", "max_new_tokens", 64, r"their max_new_tokens differ \(96, 64\)"),
        ("work", "temperature", 0.5, "their temperature differ"),
        ("work", "timed_prompts", 3, "their timed prompts differ"),
    ],
)
def test_runs_of_other_weights_or_prompts_are_not_compared(
    report: Report, part: str, key: str, value: object, complaint: str
) -> None:
    changed = dataclasses.replace(getattr(report, part), **{key: value})
    with pytest.raises(InputError, match=complaint):
        compare(report, dataclasses.replace(report, **{part: changed}))


def test_other_weights_are_compared_when_asked(report: Report) -> None:
    model = dataclasses.replace(report.model, weights_sha256="ef" * 32)
    answers = report.cases[1].answers
    fewer = dataclasses.replace(answers, tokens=answers.tokens - 1, tokens_per_nfe=2.0, digests=("aa", "dd"))
    second = dataclasses.replace(
        report,
        model=model,
        cases=(report.cases[0], dataclasses.replace(report.cases[1], answers=fewer)),
        confidences=(0.85, 0.5),
    )
    same, other = compare(report, second, other_weights=True)
    assert same.same_answers
    assert other.tokens_per_nfe == (answers.tokens_per_nfe, 2.0)
    assert same.confidence is None  # no threshold, nothing to cross
    assert compare_rows([other])[0][-1].endswith(
        "4.00 → 2.00 tokens/NFE, 1 of 2 texts the same, mean |Δ confidence| 0.0500, 50.0% cross the threshold"
    )
    with pytest.raises(InputError, match="the runs have 2 and 1 confidences"):
        compare(report, dataclasses.replace(second, confidences=(0.5,)), other_weights=True)
    strange = dataclasses.replace(second, model=dataclasses.replace(model, hidden_size=1))
    with pytest.raises(InputError, match="of different models"):
        compare(report, strange, other_weights=True)


def test_another_machine_may_be_compared_and_nothing_in_common_may_not(report: Report) -> None:
    elsewhere = dataclasses.replace(report.machine, cpu="another", gpus=("H200",))
    assert len(compare(report, dataclasses.replace(report, machine=elsewhere))) == 2
    with pytest.raises(InputError, match="no case at the same batch size"):
        compare(report, dataclasses.replace(report, cases=()))


@pytest.mark.parametrize("as_json", [False, True])
def test_a_full_disk_loses_no_measurement(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    """The old files stay, the result is told, and the exit code is 1."""
    files = [tmp_path / "old.json", tmp_path / "old.html"]
    for file in files:
        file.write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ttc.bench.session.run_bench", lambda *_: report)
    monkeypatch.setattr("os.fsync", full)
    words = ["bench", "x", "-o", str(files[0]), "--report", str(files[1]), *(["--json"] if as_json else [])]
    done = CliRunner().invoke(program, words)
    assert done.exit_code == 1
    assert "cannot be written (No space left on device); what was there is as it was" in done.stderr
    assert [file.read_text() for file in files] == ["old", "old"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    if as_json:
        assert Report.from_dict(json.loads(done.stdout), "x") == report
    else:
        assert "diffusion γ0.9" in done.stdout


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tokens_per_second": 0.0}, "tokens_per_second is 0; valid: at least 1e-09"),
        ({"tokens_per_second": 1e300}, "valid: a number of at most 1e\\+18"),
        ({"seconds": -(10**30)}, "valid: a number of at most 1e\\+18"),
        ({"seconds_of_repeats": []}, "seconds_of_repeats is empty"),
    ],
)
def test_numbers_that_nothing_can_be_compared_with(
    report: Report, tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    content = json.loads(json.dumps(report.to_dict()))
    content["cases"][0]["speed"][0] |= change
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=complaint):
        read_report(tmp_path / "x.json")
