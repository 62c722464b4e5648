"""Two runs of the same weights on the same prompts, case by case; anything else is refused."""

from collections.abc import Sequence
from dataclasses import dataclass

from ttc.bench.confidence import ConfidenceChange, confidence_change
from ttc.bench.schema import CaseRecord, Report, Speed
from ttc.errors import InputError

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One case at one batch size in both runs. `faster`: tokens per second of the second over the first.

    Attributes:
        clear: whether the repeats of the two do not overlap.
        same_answers: whether both wrote the same.
        right, tokens_per_nfe: of both; None where there is no such number.
        same_text: answers whose tokens are the same in both, and of how many; None where a run does not say.
        confidence: mean |Δ| of the denoiser's confidences and the share that crosses the case's threshold;
            None without a threshold, or where a run does not say.
    """

    name: str
    batch: int
    first: Speed
    second: Speed
    faster: float
    clear: bool
    same_answers: bool
    right: tuple[int | None, int | None]
    tokens_per_nfe: tuple[float | None, float | None]
    same_text: tuple[int, int] | None
    confidence: ConfidenceChange | None


def compare(
    first: Report,
    second: Report,
    names: tuple[str, str] = ("first", "second"),
    other_weights: bool = False,
) -> list[Comparison]:
    """Return every case that both runs have, at every batch size both have.

    Args:
        first, second: the runs.
        names: of both, for messages.
        other_weights: whether their weights may differ, as those of a quantised checkpoint do.

    Raises `InputError` where a comparison would mean nothing: other weights, other prompts or problems, other
    sampling or length, or no case in common. Machine, backend and compute dtype may differ: they are what is
    compared.
    """
    weights = (first.model.weights_sha256, second.model.weights_sha256)
    if other_weights and (first.model.pattern, first.model.hidden_size) != (
        second.model.pattern,
        second.model.hidden_size,
    ):
        raise InputError(f"{names[0]} and {names[1]} cannot be compared: they are of different models")
    for what, a, b in (
        ("weights", weights[0], weights[0] if other_weights else weights[1]),
        ("prompts or problems", first.work.prompts_sha256, second.work.prompts_sha256),
        ("max_new_tokens", first.work.max_new_tokens, second.work.max_new_tokens),
        ("temperature", first.work.temperature, second.work.temperature),
        ("seed", _seed(first), _seed(second)),
        ("timed prompts", first.work.timed_prompts, second.work.timed_prompts),
    ):
        if a != b:
            raise InputError(
                f"{names[0]} and {names[1]} cannot be compared: their {what} differ "
                f"({_short(a)}, {_short(b)}); measure both with the same"
            )
    found = [
        _one(a, b, speed_a, speed_b, (first.confidences, second.confidences))
        for a in first.cases
        for b in second.cases
        if (a.mode, a.threshold, a.steps, a.block_size) == (b.mode, b.threshold, b.steps, b.block_size)
        for speed_a in a.speed
        for speed_b in b.speed
        if speed_a.batch == speed_b.batch
    ]
    if not found:
        raise InputError(f"{names[0]} and {names[1]} have no case at the same batch size in common")
    return found


def _one(
    a: CaseRecord,
    b: CaseRecord,
    first: Speed,
    second: Speed,
    confidences: tuple[Sequence[float] | None, Sequence[float] | None],
) -> Comparison:
    low, high = sorted((first.seconds_of_repeats, second.seconds_of_repeats), key=min)
    right = tuple(None if case.answers.quality is None else case.answers.quality.correct for case in (a, b))
    return Comparison(
        name=a.name,
        batch=first.batch,
        first=first,
        second=second,
        faster=second.tokens_per_second / first.tokens_per_second,
        clear=max(low) < min(high),
        same_answers=_same_answers(a, b, (right[0], right[1])),
        right=(right[0], right[1]),
        tokens_per_nfe=(a.answers.tokens_per_nfe, b.answers.tokens_per_nfe),
        same_text=_same_text(a, b),
        confidence=_confidence(a.threshold, *confidences),
    )


def _same_answers(a: CaseRecord, b: CaseRecord, right: tuple[int | None, int | None]) -> bool:
    """Whether both wrote the same; where a run has no digests, as many tokens and as many right answers."""
    if a.answers.digests is not None and b.answers.digests is not None:
        return a.answers.digests == b.answers.digests
    return a.answers.tokens == b.answers.tokens and right[0] == right[1]


def _same_text(a: CaseRecord, b: CaseRecord) -> tuple[int, int] | None:
    first, second = a.answers.digests, b.answers.digests
    if first is None or second is None:
        return None
    _refuse_other_length("answers' digests", first, second)
    return sum(x == y for x, y in zip(first, second, strict=True)), len(first)


def _confidence(
    threshold: float | None, first: Sequence[float] | None, second: Sequence[float] | None
) -> ConfidenceChange | None:
    if threshold is None or first is None or second is None:
        return None
    _refuse_other_length("confidences", first, second)
    return confidence_change(first, second, threshold)


def _refuse_other_length(what: str, first: Sequence[object], second: Sequence[object]) -> None:
    if not len(first) == len(second) > 0:
        raise InputError(
            f"the runs have {len(first)} and {len(second)} {what}; valid: as many in both, and at least one, "
            "as `ttc bench` writes for the same prompts; measure both again"
        )


def _seed(report: Report) -> int | None:
    """Return the seed where it counts: greedy runs draw nothing."""
    return report.work.seed if report.work.temperature > 0 else None


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 16 else text
