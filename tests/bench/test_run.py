"""The run itself: what is counted, and that a broken denoiser is shown as broken."""

import dataclasses
import datetime as dt
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from ttc.bench.cases import BENCH_MODES, Case, make_cases
from ttc.bench.confidence import block_confidence
from ttc.bench.identity import weights_digest
from ttc.bench.problems import Problem
from ttc.bench.run import Plan, run_cases
from ttc.bench.schema import Report
from ttc.bench.trace import RowTrace, latency, quantile, watch
from ttc.cli import program
from ttc.errors import InputError
from ttc.formats.manifest import ShardRecord
from ttc.formats.shard import Shard
from ttc.model.bundle import Bundle
from ttc.model.graphs import is_mamba_state
from ttc.runtime.decoding.options import TRAINED_BLOCK_SIZE
from ttc.runtime.decoding.result import Event
from ttc.runtime.engine import Engine
from ttc.runtime.interface.backend import Backend
from ttc.runtime.interface.state import ContextState

ROOT = Path(__file__).parents[2]
Engines = Callable[..., Engine]
Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Bundles = Callable[..., Path]


def test_cases_sweep_one_list_at_a_time() -> None:
    cases = make_cases(["diffusion"], [0.9, 0.5], [16, 4], [16, 8])
    assert [case.name for case in cases] == [
        "ar",
        "diffusion γ0.9",
        "diffusion γ0.5",
        "diffusion γ0.9 steps 4",
        "diffusion γ0.9 steps 16 block 8",
    ]
    assert len(make_cases(["diffusion"], [0.9, 0.5], [16, 4], [16, 8], grid=True)) == 1 + 8
    assert make_cases(["diffusion"], [0.9], None, [32])[1].options() == {
        "mode": "diffusion",
        "threshold": 0.9,
        "steps": 32,
        "block_size": 32,
    }
    assert [case.mode for case in make_cases(BENCH_MODES, [0.9], None, [16])] == list(BENCH_MODES)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((["mock-ar"], [0.9], None, [16]), "mode 'mock-ar' is not measured"),
        ((["diffusion"], [1.5], None, [16]), "threshold is 1.5"),
        ((["diffusion"], [0.9, 0.9], None, [16]), "none of them twice"),
        ((["diffusion"], [0.9], [0], [16]), "steps is 0"),
        ((["diffusion"], [0.9], None, [1000]), "block size is 1000"),
    ],
)
def test_cases_that_cannot_be_run(arguments: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        make_cases(*arguments)


def plan(prompts: list[list[int]], cases: tuple[Case, ...], **changed: Any) -> Plan:
    usual: dict[str, Any] = {
        "problems": None,
        "timed_prompts": len(prompts),
        "batch_sizes": (1,),
        "repeats": 1,
        "max_new_tokens": 24,
        "temperature": 0.0,
        "seed": 0,
    }
    return Plan(cases=cases, prompts=prompts, **(usual | changed))


@pytest.mark.parametrize(
    "wrong",
    [
        {"timed_prompts": 5},
        {"batch_sizes": (4,)},
        {"batch_sizes": (0,)},
        {"repeats": 0},
        {"max_new_tokens": 0},
    ],
)
def test_plans_that_cannot_be_run(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="valid"):
        plan([[1], [2]], (Case("ar"),), **wrong)


def test_what_is_counted(engines: Engines) -> None:
    cases = make_cases(["diffusion"], [0.9], None, [16])
    prompts = [[1, 5, 6], [1, 7], [1, 8, 9, 10]]
    ar, diffusion = run_cases(
        engines("tiny_a", "onnxruntime"), plan(prompts, cases, batch_sizes=(1, 2), repeats=2)
    )
    for case in (ar, diffusion):
        single, double = case.speed
        assert (single.batch, single.prompts, double.batch, double.prompts) == (1, 3, 2, 2)
        assert len(single.seconds_of_repeats) == 2
        assert single.seconds_per_answer == pytest.approx(single.seconds / 3)
        assert double.seconds_per_answer == pytest.approx(double.seconds)
        assert single.tokens == case.answers.tokens
    assert (ar.answers.nfe, ar.answers.same_as_ar, ar.speed[0].over_ar) == (0, 1.0, pytest.approx(1.0))
    assert ar.speed[0].ar_step is not None
    assert ar.speed[0].denoise_step is None
    speed, answers = diffusion.speed[0], diffusion.answers
    assert speed.tokens_per_nfe is not None
    assert speed.nfe_in_ar_steps is not None
    assert speed.over_ar == pytest.approx(speed.tokens_per_nfe / speed.nfe_in_ar_steps)
    assert answers.tokens_per_nfe == answers.tokens / answers.nfe
    assert sum(answers.steps_per_block) > 0
    assert np.array(answers.commit_order).sum(0) == pytest.approx(np.ones(16))


@pytest.mark.parametrize("other", ["torch", pytest.param("torch@cuda", marks=pytest.mark.gpu)])
def test_another_backend_gives_the_same_answers(engines: Engines, other: str) -> None:
    cases = make_cases(["diffusion"], [0.9], None, [16])
    work = plan([[1, 5, 6], [1, 8, 9, 10]], cases, batch_sizes=(2,))
    first, second = (run_cases(engines("tiny_a", backend), work) for backend in ("onnxruntime", other))
    for mine, theirs in zip(first, second, strict=True):
        same = ("tokens", "nfe", "context_calls", "steps_per_block", "commit_order", "broken")
        assert [getattr(mine.answers, key) for key in same] == [getattr(theirs.answers, key) for key in same]


def test_the_trace_of_a_row() -> None:
    trace = RowTrace()
    confidence = (0.5, 0.5, 0.5)
    trace.feed(Event(0, 0, 0, (9, 3, 3), (False, True, True), confidence, False, None), 1.0)
    trace.feed(Event(0, 0, 1, (9, 8, 7), (False, False, False), confidence, False, None), 2.0)
    trace.feed(Event(0, 0, 2, (9, 8, 7), (False,) * 3, None, True, "x"), 2.5)
    trace.feed(Event(0, 1, 1, (9, 8), (False,) * 2, None, True, "x"), 4.0)
    assert trace.commit_steps == [[0, 1, 1]]
    assert trace.outputs == [(2.5, 3), (4.0, 5)]
    assert trace.arrivals(3) == [2.5, 4.0]
    assert trace.arrivals(16) == [4.0]
    assert trace.arrivals(1) == [2.5, 4.0]


def test_percentiles() -> None:
    assert quantile([4.0, 1.0, 2.0, 3.0], 0.5) == 2.5
    assert quantile([1.0], 0.95) == 1.0
    assert latency([]) is None


class DropsTheSeed(Backend):
    """A backend whose denoiser does not get the context's Mamba state: it made word salad once."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.name, self.config, self.notes = inner.name, inner.config, inner.notes
        for name in ("new_state", "context", "advance", "fetch", "resize", "clear_rows", "copy_row", "step"):
            setattr(self, name, getattr(inner, name))

    @property
    def device_name(self) -> str:
        return self._inner.device_name

    def denoise(
        self,
        state: ContextState,
        block_ids: npt.NDArray[np.int32],
        t: npt.NDArray[np.float32],
        rows: npt.NDArray[np.int32] | None = None,
    ) -> Any:
        empty = self._inner.new_state(state.batch, state.capacity).tensors
        seedless = {
            name: empty[name] if is_mamba_state(name) else tensor for name, tensor in state.tensors.items()
        }
        return self._inner.denoise(ContextState(state.capacity, state.lengths, seedless), block_ids, t, rows)

    def close(self) -> None:
        """The engine that is shared stays open."""

    new_state = context = advance = fetch = resize = clear_rows = copy_row = step = None  # type: ignore[assignment]


def word_problems(count: int) -> list[Problem]:
    lines = (ROOT / "ttc" / "miniature" / "problems.jsonl").read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    stated = [item for item in items if f"The answer is {item['answer']}." in json.dumps(item)]
    return [Problem(item["prompt"], item["answer"], "answer") for item in stated[:count]]


def test_a_denoiser_without_its_seed_is_shown_as_broken(engines: Engines) -> None:
    whole = engines("miniature", "onnxruntime")
    broken = Engine(DropsTheSeed(whole.runner), whole.tokenizer)
    assert whole.tokenizer is not None
    problems = word_problems(24)
    prompts = [whole.tokenizer.encode(problem.prompt).ids for problem in problems]
    work = plan(
        prompts,
        make_cases(["diffusion"], [0.9], None, [16]),
        problems=problems,
        timed_prompts=8,
        batch_sizes=(8,),
        max_new_tokens=64,
    )
    ar, sound = run_cases(whole, work)
    assert (ar.answers.broken, sound.answers.broken) == (False, False)
    _, damaged = run_cases(broken, work)
    assert damaged.answers.broken
    assert damaged.answers.quality is not None
    assert damaged.answers.quality.correct == 0
    assert any("of AR's right answers" in why for why in damaged.answers.why_broken)
    # Where no answer can be right, the context tower's own opinion is enough.
    without = dataclasses.replace(work, problems=None, prompts=prompts[:8])
    ar, sound = run_cases(whole, without)
    assert (ar.answers.broken, sound.answers.broken) == (False, False)
    _, damaged = run_cases(broken, without)
    assert any("nats per token" in why for why in damaged.answers.why_broken)


def test_the_weights_digest_is_of_the_weights(bundles: Bundles) -> None:
    with Bundle.open(bundles("miniature")) as other:
        of_another = weights_digest(other)
    with Bundle.open(bundles("tiny_a")) as packed:
        digest = weights_digest(packed)
        assert digest != of_another
        by_reference = referenced(packed, ROOT / "tests" / "golden" / "tiny_a")
        assert by_reference.weights_mode == "reference"
        assert weights_digest(by_reference) == digest
        by_reference.close()


def referenced(packed: Bundle, checkpoint: Path) -> Bundle:
    """The same bundle with its weights left in the checkpoint."""
    shards = {}
    for file in checkpoint.glob("model*.safetensors"):
        with Shard.open(file) as shard:
            shards[file.name] = ShardRecord.of(shard)
    weights = dataclasses.replace(
        packed.manifest.weights, mode="reference", root=str(checkpoint), shards=shards
    )
    manifest = dataclasses.replace(packed.manifest, weights=weights)
    return Bundle(packed.path, manifest, packed.manifest_sha256, {}, None)


def test_confidences_are_what_the_threshold_is_held_against(engines: Callable[..., Engine]) -> None:
    """The first step commits the positions at or above it."""
    engine = engines("miniature", "onnxruntime", None)
    prompt = engine.tokenizer.encode("Question: 3 + 4?\nAnswer:").ids  # type: ignore[union-attr]
    found = block_confidence(engine, prompt)
    options = {"mode": "diffusion", "threshold": 0.6, "max_new_tokens": 16, "stop_at_eos": False}
    (steps,) = watch(engine, [prompt], options).rows[0].commit_steps
    assert [step == 0 for step in steps] == (found >= 0.6).tolist()
    assert 0 < sum(step == 0 for step in steps) < 16


def test_calls_are_timed_by_the_clock_that_is_given(engines: Callable[..., Engine]) -> None:
    ticks = itertools.count()
    trace = watch(
        engines("tiny_a", "onnxruntime"),
        [[1, 5, 9]],
        {"mode": "ar", "max_new_tokens": 4, "stop_at_eos": False},
        lambda: float(next(ticks)),
    )
    assert trace.ar_steps == (1.0, 1.0, 1.0)


def test_the_command(bundles: Bundles, tmp_path: Path) -> None:
    saved, drawn = tmp_path / "run.json", tmp_path / "run.html"
    arguments = [
        "bench",
        str(bundles("tiny_a")),
        "--limit",
        "2",
        "--repeats",
        "1",
        "--max-new-tokens",
        "16",
    ]
    done = CliRunner().invoke(program, [*arguments, "--json", "-o", str(saved), "--report", str(drawn)])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(saved.read_text())
    found = Report.from_dict(json.loads(done.stdout), "stdout")
    assert found.work.tasks is None
    assert (found.model.device, found.model.threads) == ("cpu", 1)
    assert found.machine.cpu
    assert found.confidences is not None
    assert len(found.confidences) == 2 * TRAINED_BLOCK_SIZE
    assert [len(case.answers.digests or ()) for case in found.cases] == [2] * len(found.cases)
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(found.conditions.started)
    assert dt.timedelta(0) <= age < dt.timedelta(hours=1)
    assert found.conditions.load_at_end == pytest.approx(os.getloadavg()[0], abs=64)
    assert drawn.read_text(encoding="utf-8").startswith("<!doctype html>")
    compared = CliRunner().invoke(program, ["bench", "--compare", str(saved), str(saved)])
    assert compared.exit_code == 0, compared.stderr
    assert "within the spread" in compared.stdout
    assert compared.stdout.count(found.conditions.started) == 2
    shown = CliRunner().invoke(program, arguments)
    assert shown.exit_code == 0, shown.stderr
    assert "tokens/NFE" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ([], 2, "give a BUNDLE, or --headline"),
        (["nowhere", "--batch", "1,x"], 2, "is not a list of numbers"),
        (["nowhere"], 1, "nowhere: no such folder"),
        (["nowhere", "--tasks", "none.jsonl"], 1, "none.jsonl: cannot be read"),
        (["nowhere", "--report", "no/such/folder.html"], 1, "its folder does not exist"),
        (["nowhere", "-o", "."], 1, "a folder; name a file in it"),
        (["nowhere", "--seed", "-1"], 2, "'--seed': -1 is not in the range x>=0"),
        (["nowhere", "--limit", "-3"], 2, "'--limit' / '--problems': -3 is not in the range x>=1"),
        (["nowhere", "--problems", "0"], 2, "'--limit' / '--problems': 0 is not in the range x>=1"),
        (["nowhere", "--timed-prompts", "0"], 2, "'--timed-prompts' / '--timed': 0 is not in the range x>=1"),
        (["--compare", "a.json", "b.json"], 1, "a.json: cannot be read"),
    ],
)
def test_what_the_command_refuses(arguments: list[str], code: int, complaint: str) -> None:
    done = CliRunner().invoke(program, ["bench", *arguments])
    assert done.exit_code == code
    assert complaint in done.stderr


def test_a_task_needs_a_tokenizer(bundles: Bundles, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(json.dumps({"prompt": "p", "answer": "a", "check": "exact"}))
    done = CliRunner().invoke(program, ["bench", str(bundles("tiny_a")), "--tasks", str(tasks)])
    assert done.exit_code == 1
    assert "no tokenizer.json, so no task can be asked" in done.stderr
