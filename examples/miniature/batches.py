"""Batches of problems as tensors. A batch follows from (seed, step, rank), so a resumed run sees the same."""

import random
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
    """

    ids: Tensor
    real: Tensor
    answer: int
    ends: Tensor
    results: Tensor

    @property
    def first(self) -> Tensor:
        """(B, answer tokens) bool: those up to and with the first eos."""
        return torch.arange(self.ids.shape[1] - self.answer, device=self.ids.device) < self.ends[:, None]


def training_batches(
    tokenizer: Tokenizer, seed: int, step: int, rank: int, count: int, size: int, device: torch.device
) -> list[Batch]:
    """The training problems of a step, `count` of them, in batches by the blocks that their answers fill."""
    rng = random.Random(f"{seed}/{step}/{rank}")
    groups: dict[int, list[Problem]] = {}
    for _ in range(count):
        problem = make(rng, "train")
        length = len(tokenizer.encode(problem.text, add_special_tokens=False)) + 1
        groups.setdefault(max(2, -(-length // size)), []).append(problem)
    return [collate(tokenizer, groups[blocks], size, device) for blocks in sorted(groups)]


def collate(tokenizer: Tokenizer, problems: list[Problem], size: int, device: torch.device) -> Batch:
    """Problems as one batch, prompt and answer padded to whole blocks of `size`."""
    prompts = [tokenizer.encode(problem.prompt).ids for problem in problems]
    answers = [[*tokenizer.encode(problem.text, add_special_tokens=False).ids, EOS] for problem in problems]
    before, after = (-(-max(map(len, part)) // size) * size for part in (prompts, answers))
    ids = [
        [PAD] * (before - len(prompt)) + prompt + answer + [EOS] * (after - len(answer))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    table = torch.tensor(ids, device=device)
    ends = torch.tensor([len(answer) for answer in answers], device=device)
    results = torch.tensor([_results(tokenizer, row[before:]) for row in ids], device=device)
    return Batch(table, table != PAD, before, ends, results)


def _results(tokenizer: Tokenizer, answer: list[int]) -> list[bool]:
    """Which tokens are digits of a number right after "="."""
    found, inside = [], False
    for token in answer:
        text = tokenizer.id_to_token(token) or ""
        found.append(inside and text.isdigit())
        inside = text == "=" or found[-1]
    return found
