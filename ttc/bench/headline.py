"""The headline: speedup and quality side by side, of the settings that the model's claim is about."""

import statistics
from collections.abc import Sequence

from ttc.bench.schema import CaseRecord, Report
from ttc.bench.session import Settings
from ttc.errors import InputError

__all__ = ["HEAD", "SETTINGS", "TURNS", "notes", "rows", "speedups"]

# Each turn runs every case over the same prompts, one after the other; a speedup is of one turn.
TURNS = 5
# The threshold that keeps most of what is right while blocks still take few steps (docs/sampler.md). Drafts
# in two to four steps are equally fast; in four they are accepted furthest.
SETTINGS = Settings(
    modes=("ar", "diffusion", "lossless", "prompt-lookup"),
    threshold=(0.97,),
    draft_steps=4,
    repeats=TURNS,
)
HEAD = ("", "speedup", "turns", "right", "95 % interval", "of AR's")


def rows(report: Report) -> list[tuple[str, ...]]:
    """One row per case: the median speedup over AR's tokens per second and that of the slowest and fastest
    turn, right answers with Wilson's 95 % interval, and their share of AR's.

    Raises:
        InputError: the report has no problems, so nothing can be right.
    """
    ar = report.cases[0]
    found: list[tuple[str, ...]] = []
    for case in report.cases:
        quality, every = case.answers.quality, speedups(case, ar)
        if quality is None:
            raise InputError("the run has no right answers to tell of; give it --tasks")
        low, high = quality.interval
        found.append(
            (
                case.name,
                f"{statistics.median(every):.2f}",
                "–" if case is ar else f"{min(every):.2f}–{max(every):.2f}",
                f"{quality.correct} of {quality.problems}",
                f"{low:.1%} to {high:.1%}",
                "–" if quality.of_ar is None else f"{quality.of_ar:.1%}",
            )
        )
    return found


def speedups(case: CaseRecord, ar: CaseRecord) -> tuple[float, ...]:
    """Tokens per second over AR's, turn by turn, at the first batch size."""
    mine, base = case.speed[0], ar.speed[0]
    turns: Sequence[tuple[float, float]] = list(
        zip(mine.seconds_of_repeats, base.seconds_of_repeats, strict=True)
    )
    return tuple(mine.tokens / own / (base.tokens / of_ar) for own, of_ar in turns)


def notes(report: Report) -> tuple[str, ...]:
    """What the figures are and are not, in sentences."""
    model, work, speed = report.model, report.work, report.cases[0].speed[0]
    threads = "one thread" if model.threads == 1 else f"{model.threads} threads"
    measured = (
        f"Speedup: tokens per second over AR's, median of {len(speed.seconds_of_repeats)} turns over "
        f"{speed.prompts} of {work.problems} held-out problems, one at a time, the modes in turn; AR makes "
        f"{speed.tokens_per_second:.0f} tokens/s ({model.backend} on {model.device}, {threads})."
    )
    means = (
        "It is the built-in miniature, 2.7 million parameters and problems made in code: it shows that the "
        "method works, and nothing of the large model's quality or of its speed on a GPU. The large model's "
        "claim is 2.42 times AR at 98.7 % of its quality."
    )
    return measured, means
