"""Batches of problems as tensors. A batch follows from (seed, step, rank), so a resumed run sees the same."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from examples.miniature.data import Problem, make
from examples.miniature.tokenizer import EOS, PAD

__all__ = ["Batch", "collate", "training_batches"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of equal length, L tokens: prompt padded on the left, answer filled up with eos.

    Attributes:
        ids: (B, L) int64.
        real: (B, L) bool, false at the prompt's padding.
        answer: tokens from here on belong to answers; a multiple of the block.
        ends: (B,) int64, answer tokens up to and with the first eos.
        results: (B, answer tokens) bool, digits of computed results (those after "=").
        begun: (B,) bool, rows whose prompt holds the answer's first tokens.
    """

    ids: Tensor
    real: Tensor
    answer: int
    ends: Tensor
    results: Tensor
    begun: Tensor

    @property
    def first(self) -> Tensor:
        """(B, answer tokens) bool: those up to and with the first eos."""
        return torch.arange(self.ids.shape[1] - self.answer, device=self.ids.device) < self.ends[:, None]


def training_batches(
    tokenizer: Tokenizer,
    seed: int,
    step: int,
    rank: int,
    count: int,
    size: int,
    device: torch.device,
    shares: Mapping[str, float] | None = None,
    begun: float = 0.0,
) -> list[Batch]:
    """The training problems of a step, `count` of them, in batches by the blocks that their answers fill.

    shares: task → its share, in place of those of `TASKS`.
    begun: the share of problems of whose answer a few tokens (fewer than a block) stand in the prompt.
    """
    rng = random.Random(f"{seed}/{step}/{rank}")
    groups: dict[int, list[tuple[Problem, int]]] = {}
    for _ in range(count):
        task = None if shares is None else rng.choices(list(shares), list(shares.values()))[0]
        problem = make(rng, "train", task)
        length = len(tokenizer.encode(problem.text, add_special_tokens=False)) + 1
        moved = rng.randint(1, min(length, size) - 1) if begun and rng.random() < begun else 0
        groups.setdefault(max(2, -(-(length - moved) // size)), []).append((problem, moved))
    return [
        collate(tokenizer, [p for p, _ in groups[n]], size, device, [moved for _, moved in groups[n]])
        for n in sorted(groups)
    ]


def collate(
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    size: int,
    device: torch.device,
    moved: Sequence[int] | None = None,
) -> Batch:
    """Problems as one batch, prompt and answer padded to whole blocks of `size`.

    moved: how many of each answer's first tokens belong to the prompt; none of any unless given.
    """
    prompts = [tokenizer.encode(problem.prompt).ids for problem in problems]
    answers = [[*tokenizer.encode(problem.text, add_special_tokens=False).ids, EOS] for problem in problems]
    if moved is not None:
        prompts = [prompt + answer[:n] for prompt, answer, n in zip(prompts, answers, moved, strict=True)]
        answers = [answer[n:] for answer, n in zip(answers, moved, strict=True)]
    before, after = (-(-max(map(len, part)) // size) * size for part in (prompts, answers))
    ids = [
        [PAD] * (before - len(prompt)) + prompt + answer + [EOS] * (after - len(answer))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    table = torch.tensor(ids, device=device)
    ends = torch.tensor([len(answer) for answer in answers], device=device)
    results = torch.tensor([_results(tokenizer, row[before:]) for row in ids], device=device)
    begun = torch.tensor(moved or [0] * len(problems), device=device) > 0
    return Batch(table, table != PAD, before, ends, results, begun)


def _results(tokenizer: Tokenizer, answer: list[int]) -> list[bool]:
    """Which tokens are digits of a number right after "="."""
    found, inside = [], False
    for token in answer:
        text = tokenizer.id_to_token(token) or ""
        found.append(inside and text.isdigit())
        inside = text == "=" or found[-1]
    return found
