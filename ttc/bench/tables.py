"""The figures of a run as rows of text, for the terminal and for the page."""

from collections.abc import Sequence

from ttc.bench.compare import Comparison
from ttc.bench.schema import CaseRecord, Conditions, Latency, Model, Report

__all__ = [
    "ANSWERS_HEAD",
    "COMPARE_HEAD",
    "RUNS_HEAD",
    "SPEED_HEAD",
    "answer_rows",
    "compare_rows",
    "context",
    "run_rows",
    "speed_rows",
    "task_rows",
]

ANSWERS_HEAD = (
    "case", "right", "of AR", "exact match AR", "nats/token", "repetition", "tokens/call",
    "NFE", "tokens/NFE", "steps/block", "verdict",
)  # fmt: skip
SPEED_HEAD = (
    "case", "batch", "tokens/s", "min–max", "speedup", "tokens/NFE", "NFE cost ratio", "latency ms",
    "latency speedup", "first block ms p50/p95", "between p50/p95",
)  # fmt: skip
RUNS_HEAD = ("run", "measured", "load", "backend", "CPU", "commit")
COMPARE_HEAD = ("case", "batch", "first tokens/s", "second tokens/s", "second/first", "")
_NONE = "–"


def answer_rows(report: Report) -> list[tuple[str, ...]]:
    """One row per case: what it wrote."""
    return [_answer_row(case) for case in report.cases]


def task_rows(report: Report) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the right answers by task; no rows where there are not several tasks."""
    first = report.cases[0].answers.quality
    if first is None or len(first.by_task) < 2:
        return (), []
    rows = []
    for case in report.cases:
        assert case.answers.quality is not None, "one case with problems, all with problems"
        scores = case.answers.quality.by_task.values()
        rows.append((case.name, *(f"{score.correct / score.problems:.1%}" for score in scores)))
    head = ("right by task", *(f"{task} ({score.problems})" for task, score in first.by_task.items()))
    return head, rows


def speed_rows(report: Report) -> list[tuple[str, ...]]:
    """One row per case and batch size: how fast it was."""
    rows: list[tuple[str, ...]] = []
    for batch in report.work.batch_sizes:
        for case in report.cases:
            speed = next(each for each in case.speed if each.batch == batch)
            slow, fast = (speed.tokens / bound(speed.seconds_of_repeats) for bound in (max, min))
            rows.append(
                (
                    case.name,
                    str(batch),
                    f"{speed.tokens_per_second:.0f}",
                    f"{slow:.0f}–{fast:.0f}",
                    f"{speed.over_ar:.2f}",
                    _number(speed.tokens_per_nfe),
                    _number(speed.nfe_in_ar_steps),
                    f"{1e3 * speed.seconds_per_answer:.1f}",
                    f"{speed.answer_over_ar:.2f}",
                    _latency(speed.first_block),
                    _latency(speed.between_blocks),
                )
            )
    return rows


def compare_rows(found: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """One row per case and batch size of two runs."""
    rows: list[tuple[str, ...]] = []
    for one in found:
        remarks = [] if one.clear else ["within the spread"]
        remarks += [] if one.same_answers else [_other_answers(one)]
        pair = (f"{speed.tokens_per_second:.0f}" for speed in (one.first, one.second))
        rows.append((one.name, str(one.batch), *pair, f"{one.faster:.2f}", ", ".join(remarks)))
    return rows


def _other_answers(one: Comparison) -> str:
    told = ["other answers"]
    if None not in one.right:
        told.append(f"{one.right[0]} → {one.right[1]} right")
    if one.tokens_per_nfe[0] is not None and one.tokens_per_nfe[1] is not None:
        told.append(f"{one.tokens_per_nfe[0]:.2f} → {one.tokens_per_nfe[1]:.2f} tokens/NFE")
    if one.same_text is not None:
        told.append(f"{one.same_text[0]} of {one.same_text[1]} texts the same")
    if one.confidence is not None:
        change, crossings = one.confidence
        told.append(f"mean |Δ confidence| {change:.4f}, {crossings:.1%} cross the threshold")
    return ", ".join(told)


def run_rows(names: Sequence[str], reports: Sequence[Report]) -> list[tuple[str, ...]]:
    """When, on what and beside what each of some runs was measured."""
    return [
        (
            name,
            one.conditions.started,
            _load(one.conditions),
            _backend(one.model),
            f"{one.machine.cpu}, {one.machine.cores} cores",
            (one.machine.commit or "unknown")[:12],
        )
        for name, one in zip(names, reports, strict=True)
    ]


def context(report: Report) -> list[tuple[str, str]]:
    """Return what the figures hold for: model, machine, work; one (name, text) each."""
    machine, model, work, conditions = report.machine, report.model, report.work, report.conditions
    asked = f"{work.problems} problems of {work.tasks}" if work.tasks else f"{work.problems} random prompts"
    sampling = "greedy" if work.temperature == 0 else f"temperature {work.temperature:g}, seed {work.seed}"
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    return [
        ("model", f"{model.bundle}: {model.pattern}, hidden {model.hidden_size}, {model.compute_dtype}"),
        ("weights", model.weights_sha256[:16]),
        ("backend", _backend(model)),
        ("machine", ", ".join((f"{machine.cpu}, {machine.cores} cores", *machine.gpus, machine.system))),
        ("measured", f"{conditions.started}, load {_load(conditions)}"),
        ("versions", f"ttc {machine.ttc_version}, Python {machine.python}, {packages}"),
        ("commit", machine.commit or "unknown"),
        (
            "asked",
            f"{asked} ({work.prompts_sha256[:16]}), at most {work.max_new_tokens} new tokens, {sampling}",
        ),
        ("timed", f"{work.timed_prompts} prompts, median of {work.repeats} interleaved repeats"),
        *(("note", note) for note in model.notes),
    ]


def _backend(model: Model) -> str:
    """Backend, device and threads."""
    count = model.threads
    threads = "" if count is None else f", {count} thread{'s' * (count > 1)} a call"
    return f"{model.backend} on {model.device}{threads}"


def _load(conditions: Conditions) -> str:
    """Return the load averages before and after."""
    loads = (conditions.load_at_start, conditions.load_at_end)
    return " to ".join("unknown" if load is None else f"{load:.2f}" for load in loads)


def _answer_row(case: CaseRecord) -> tuple[str, ...]:
    answers, quality = case.answers, case.answers.quality
    right = of_ar = _NONE
    if quality is not None:
        right = f"{quality.accuracy:.1%} of {quality.problems}"
        of_ar = _NONE if quality.of_ar is None else f"{quality.of_ar:.1%}"
    blocks = answers.steps_per_block
    steps = f"{blocks[0]:.1f} … {blocks[-1]:.1f}" if len(blocks) > 1 else "".join(f"{b:.1f}" for b in blocks)
    return (
        case.name,
        right,
        of_ar,
        f"{answers.same_as_ar:.0%}",
        _number(answers.context_nll),
        f"{answers.looping:.1%}",
        f"{answers.tokens / answers.context_calls:.2f}",
        str(answers.nfe),
        _number(answers.tokens_per_nfe),
        steps or _NONE,
        "BROKEN: " + "; ".join(answers.why_broken) if answers.broken else "",
    )


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"


def _latency(value: Latency | None) -> str:
    return _NONE if value is None else f"{1e3 * value.p50:.1f}/{1e3 * value.p95:.1f}"
