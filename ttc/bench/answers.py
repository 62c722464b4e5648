"""What the cases wrote, judged: right answers, loops, agreement with AR, and whether a case is broken."""

import hashlib
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttc.bench.cases import Case
from ttc.bench.patterns import PatternSearch
from ttc.bench.problems import Problem
from ttc.bench.quality import is_looping, is_right, wilson
from ttc.bench.schema import Answers, Quality, Score
from ttc.bench.trace import RowTrace
from ttc.runtime.decoding.result import Result
from ttc.runtime.engine import Engine

__all__ = ["Written", "judge"]

# A case is broken when it keeps less than half of what AR gets right, or when half of its answers more than
# AR's loop; and, where right answers say nothing, when its text surprises the model's own context tower by a
# nat per token more than AR's text does.
_KEPT, _NATS, _LOOPS = 0.5, 1.0, 0.5
# Below this, AR's accuracy is too small a yardstick.
_MIN_AR_CORRECT = 5


@dataclass(frozen=True, slots=True)
class Written:
    """One case's results and traces, one per problem."""

    results: Sequence[Result]
    rows: Sequence[RowTrace]


def judge(
    engine: Engine,
    cases: Sequence[Case],
    written: Mapping[str, Written],
    prompts: Sequence[Sequence[int]],
    problems: Sequence[Problem] | None,
    scored: Sequence[int],
) -> dict[str, Answers]:
    """Return the answers of every case; the first case is AR, which the others are held against.

    scored: indices of the prompts that the context tower is asked about.
    """
    judged: dict[str, Answers] = {}
    for case in cases:
        mine, ar = written[case.name], written[cases[0].name]
        nll = _context_nll(engine, [prompts[at] for at in scored], [mine.results[at] for at in scored])
        yardstick = judged.get(cases[0].name)
        judged[case.name] = _answers(case, mine, ar, problems, nll, yardstick)
    return judged


def _answers(
    case: Case,
    mine: Written,
    ar: Written,
    problems: Sequence[Problem] | None,
    nll: float | None,
    yardstick: Answers | None,
) -> Answers:
    results, total = mine.results, len(mine.results)
    loops = [is_looping(result.token_ids) for result in results]
    tokens = sum(len(result.token_ids) for result in results)
    nfe = sum(result.stats.nfe for result in results)
    quality = None
    if problems is not None:
        quality = _quality(problems, results, loops, None if yardstick is None else yardstick.quality)
    looping = sum(loops) / total
    why = () if yardstick is None else tuple(_why_broken(quality, nll, looping, yardstick))
    same = sum(a.token_ids == b.token_ids for a, b in zip(results, ar.results, strict=True))
    # Drafts have no order worth a map: their lengths vary, and their first token is not theirs.
    traced = mine.rows if case.mode == "diffusion" else ()
    full = [steps for row in traced for steps in row.commit_steps if min(steps) >= 0]
    return Answers(
        tokens=tokens,
        nfe=nfe,
        tokens_per_nfe=tokens / nfe if nfe else None,
        context_calls=sum(result.stats.context_calls for result in results),
        ended_by_eos=sum(result.finish_reason == "eos" for result in results) / total,
        looping=looping,
        same_as_ar=same / total,
        context_nll=nll,
        steps_per_block=_steps_per_block(mine.rows),
        commit_order=_commit_order(full),
        left_to_right=_mean([tau for steps in full if (tau := _kendall(steps)) is not None]),
        quality=quality,
        broken=bool(why),
        why_broken=why,
        digests=tuple(_digest(result.token_ids) for result in results),
    )


def _digest(token_ids: Sequence[int]) -> str:
    """Return 16 hexadecimal digits that stand for an answer's tokens."""
    return hashlib.sha256(np.asarray(token_ids, "<i4").tobytes()).hexdigest()[:16]


def _quality(
    problems: Sequence[Problem], results: Sequence[Result], loops: Sequence[bool], ar: Quality | None
) -> Quality:
    with PatternSearch() as search:
        right = [
            not loop and result.text is not None and is_right(problem, result.text, search)
            for problem, result, loop in zip(problems, results, loops, strict=True)
        ]
    of_task: dict[str, list[bool]] = defaultdict(list)
    for problem, one in zip(problems, right, strict=True):
        of_task[problem.task].append(one)
    correct, total = sum(right), len(right)
    if ar is None:  # this is AR
        of_ar = 1.0 if correct else None
    else:
        of_ar = correct / ar.correct if ar.correct else None
    scores = {task: Score(sum(found), len(found)) for task, found in sorted(of_task.items())}
    return Quality(correct, total, correct / total, wilson(correct, total), of_ar, scores)


def _why_broken(quality: Quality | None, nll: float | None, looping: float, ar: Answers) -> list[str]:
    why = []
    measured = ar.quality is not None and ar.quality.correct >= _MIN_AR_CORRECT
    if measured and quality is not None and quality.of_ar is not None:
        if quality.of_ar < _KEPT:
            why.append(f"keeps {quality.of_ar:.0%} of AR's right answers")
    elif nll is not None and ar.context_nll is not None and nll > ar.context_nll + _NATS:
        why.append(f"its text costs the context tower {nll:.2f} nats per token, AR's {ar.context_nll:.2f}")
    if looping > ar.looping + _LOOPS:
        why.append(f"{looping:.0%} of its answers loop, of AR's {ar.looping:.0%}")
    return why


def _context_nll(engine: Engine, prompts: Sequence[Sequence[int]], results: Sequence[Result]) -> float | None:
    """−log p of the new tokens under the context tower, mean over all of them."""
    total, count = 0.0, 0
    for prompt, result in zip(prompts, results, strict=True):
        ids = [*prompt, *result.token_ids]
        logits = engine.context_logits(ids[:-1])[len(prompt) - 1 :].astype(np.float64)
        top = logits.max(-1)
        log_sum = top + np.log(np.exp(logits - top[:, None]).sum(-1))
        chosen = logits[np.arange(len(result.token_ids)), np.array(result.token_ids)]
        total += float((log_sum - chosen).sum())
        count += len(result.token_ids)
    return total / count if count else None


def _steps_per_block(rows: Sequence[RowTrace]) -> tuple[float, ...]:
    """Return the mean number of steps of the first, second, … block, over the rows that have one."""
    longest = max((len(row.commit_steps) for row in rows), default=0)
    means = []
    for block in range(longest):
        taken = [max(row.commit_steps[block]) + 1 for row in rows if len(row.commit_steps) > block]
        means.append(statistics.fmean(taken))
    return tuple(means)


def _commit_order(blocks: Sequence[Sequence[int]]) -> tuple[tuple[float, ...], ...]:
    """Return the share of the blocks that committed each position at each step: (steps, positions)."""
    if not blocks:
        return ()
    counts = np.zeros((max(map(max, blocks)) + 1, len(blocks[0])))
    for steps in blocks:
        counts[steps, np.arange(len(steps))] += 1
    return tuple(map(tuple, (counts / len(blocks)).tolist()))


def _kendall(steps: Sequence[int]) -> float | None:
    """Kendall's τ-b between commit step and position, which has no ties; None where all steps are one."""
    order = np.array(steps)
    n = len(order)
    upper = np.triu_indices(n, 1)
    signs = np.sign(order[None, :] - order[:, None])[upper]
    untied = int(np.count_nonzero(signs))
    pairs = n * (n - 1) // 2
    return float(signs.sum() / np.sqrt(untied * pairs)) if untied else None


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
