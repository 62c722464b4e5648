"""Rules by which a denoise step could commit, on the same blocks: right answers against steps per block.

    python -m benchmarks.commit_rules                      written to build/commit_rules.json
    python -m benchmarks.commit_rules --checkpoint DIR --problems 100

The model's own rule commits what is more probable than γ. The others: *margin* (the best token's probability
less the second's), *entropy*, *joint* (the surest places as long as the product of their probabilities stays
above a bound: a budget for the whole step), *factor* (as Fast-dLLM: (n + 1)(1 − p of the n-th surest) below a
bound), and *by share* (a γ that goes from one value, where all is masked, to another). Every rule commits at
least the surest place.

Problems are held out and are not the 750 of the tables: what is chosen by this does not spoil those. Blocks
are filled over the right text before them, all at once, by the training code in float32, so a problem counts
as right if all its blocks are; the shares are weighted as in the 750 (500 stories, 50 of each other task).
"""

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from examples.miniature import tokenizer
from examples.miniature.batches import Batch, collate
from examples.miniature.data import TASKS, WORDS, make
from examples.miniature.forward import Before, block_logits, context_hidden
from examples.miniature.tokenizer import MASK
from examples.miniature.weights import read
from ttc.bench.identity import machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.formats.shipped import shipped_checkpoint
from ttc.model.config import ModelConfig
from ttc.model.towers import TowerWeights
from ttc.model.weights import CONTEXT, DENOISER

BLOCK = 16
# Of the 750: how much a task's share counts.
COUNTS = {task: 500 if task == "word" else 50 for task in TASKS}

# Probabilities (R, S, V), the best token's (R, S) and what is masked → how sure a place is, and which commit.
Rule = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Blocks:
    """The needed blocks of one task's problems."""

    task: str
    batch: Batch
    needed: Tensor
    right: Tensor
    before: Before


def probability(bound: float) -> Rule:
    """The model's own."""
    return lambda p, best, masked: (best, best > bound)


def margin(bound: float) -> Rule:
    """The best token's probability less the second's, above the bound."""

    def rule(p: Tensor, best: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        first, second = p.topk(2, -1).values.unbind(-1)
        return first - second, first - second > bound

    return rule


def entropy(bound: float) -> Rule:
    """Below the bound, in nats."""

    def rule(p: Tensor, best: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        nats = -(p * p.clamp(min=1e-30).log()).sum(-1)
        return -nats, nats < bound

    return rule


def joint(bound: float) -> Rule:
    """The surest places, while the product of their probabilities is above the bound."""
    return _of_sorted(lambda p: p.cumprod(-1) > bound)


def factor(bound: float) -> Rule:
    """The n surest places, while (n + 1)(1 − p of the n-th) is below the bound."""

    def taken(p: Tensor) -> Tensor:
        count = torch.arange(1, p.shape[-1] + 1)
        return ((count + 1) * (1 - p) < bound).cumprod(-1).bool()

    return _of_sorted(taken)


def by_share(last: float, first: float) -> Rule:
    """A threshold that goes with the share of masks from `first` (all) to `last` (none)."""

    def rule(p: Tensor, best: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        share = masked.float().mean(-1, keepdim=True)
        return best, best > last + (first - last) * share

    return rule


def _of_sorted(taken: Callable[[Tensor], Tensor]) -> Rule:
    def rule(p: Tensor, best: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        order = best.masked_fill(~masked, 0.0).argsort(-1, descending=True)
        chosen = taken(best.masked_fill(~masked, 0.0).gather(-1, order).clamp(min=1e-9))
        return best, torch.zeros_like(masked).scatter(-1, order, chosen)

    return rule


BOUNDS: dict[str, tuple[Callable[..., Rule], Sequence[tuple[float, ...]]]] = {
    "probability": (probability, [(0.8,), (0.9,), (0.95,), (0.97,), (0.98,), (0.99,), (0.995,)]),
    "margin": (margin, [(0.8,), (0.9,), (0.95,), (0.98,), (0.99,)]),
    "entropy": (entropy, [(0.5,), (0.3,), (0.2,), (0.1,), (0.05,)]),
    "joint": (joint, [(0.7,), (0.8,), (0.9,), (0.95,), (0.98,)]),
    "factor": (factor, [(1.0,), (0.5,), (0.25,), (0.1,)]),
    "by share": (by_share, [(0.9, 0.99), (0.95, 0.995), (0.99, 0.9), (0.995, 0.95)]),
}


def blocks_of(config: ModelConfig, context: TowerWeights, task: str, count: int) -> Blocks:
    """Held-out problems of a task, and the context tower's states before their blocks."""
    rng = random.Random(f"commit rules {task}")
    problems = [make(rng, "test", task) for _ in range(count)]
    batch = collate(tokenizer.build(WORDS), problems, BLOCK, torch.device("cpu"))
    _, seeds = context_hidden(config, context, batch.ids, batch.real, BLOCK, {})
    right = batch.ids[:, batch.answer :].unflatten(1, (-1, BLOCK))
    needed = torch.arange(right.shape[1]) * BLOCK < batch.ends[:, None]
    return Blocks(task, batch, needed, right[needed], Before.of(config, seeds, batch.real, BLOCK, needed))


def fill(config: ModelConfig, tower: TowerWeights, blocks: Blocks, rule: Rule) -> tuple[float, int]:
    """The share of the problems that come out right, and the evaluations of all blocks."""
    filled = torch.full_like(blocks.right, MASK)
    evaluations = 0
    while (live := (filled == MASK).any(-1)).any():
        part = filled[live]
        masked = part == MASK
        evaluations += len(part)
        logits = block_logits(config, tower, part, masked.float().mean(-1), blocks.before.rows(live), {})
        logits[..., MASK] = -torch.inf
        p = logits.softmax(-1)
        best, token = p.max(-1)
        sure, commits = rule(p, best, masked)
        sure = sure.masked_fill(~masked, -torch.inf)
        surest = sure == sure.max(-1, keepdim=True).values
        filled[live] = torch.where(masked & (commits | surest), token, part)
    wrong = torch.zeros((*blocks.needed.shape, BLOCK), dtype=torch.bool)
    wrong[blocks.needed] = filled != blocks.right
    bad = (wrong.flatten(1) & blocks.batch.first).any(-1)
    return 1 - bad.float().mean().item(), evaluations


def main() -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=shipped_checkpoint())
    parser.add_argument("--problems", type=int, default=300, help="stories; half as many of each other task")
    parser.add_argument("-o", "--output", type=record_file, default="build/commit_rules.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    config = ModelConfig.from_hf(json.loads((given.checkpoint / "config.json").read_text()), {})
    weights = read(given.checkpoint)
    context, denoiser = (TowerWeights.of(config, name, weights) for name in (CONTEXT, DENOISER))
    counts = {task: given.problems if task == "word" else given.problems // 2 for task in TASKS}
    sets = [blocks_of(config, context, task, count) for task, count in counts.items()]
    rows = []
    for name, (make_rule, bounds) in BOUNDS.items():
        for bound in bounds:
            shares, steps, blocks = {}, 0.0, 0.0
            for each in sets:
                weight = COUNTS[each.task] / counts[each.task]
                shares[each.task], evaluations = fill(config, denoiser, each, make_rule(*bound))
                steps += evaluations * weight
                blocks += len(each.right) * weight
            right = sum(share * COUNTS[task] for task, share in shares.items())
            rows.append(
                {"rule": name, "bound": bound, "right_of_750": right, "steps_per_block": steps / blocks,
                 "right": shares}
            )  # fmt: skip
            print(f"{name:12} {bound!s:16} right {right:6.1f} of 750, {steps / blocks:.3f} steps per block")
    record = {
        "command": "python -m benchmarks.commit_rules", "started": now(), "machine": machine().cpu,
        "problems": counts, "rows": rows,
    }  # fmt: skip
    write_record(given.output, record)


if __name__ == "__main__":
    main()
