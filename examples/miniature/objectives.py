"""What each tower is trained on, and how training watches held-out problems."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from examples.miniature.batches import Batch
from examples.miniature.forward import Loads, context_hidden, context_logits, denoiser_logits
from examples.miniature.tokenizer import MASK
from ttc.model.config import ModelConfig
from ttc.model.towers import TowerWeights

__all__ = [
    "MOST_OF_ONE",
    "Losses",
    "context_loss",
    "context_solves",
    "denoiser_loss",
    "denoiser_solves",
    "lowest",
    "predict",
    "uniform",
]

THRESHOLD = 0.9  # of the sampler that watches the held-out problems
MOST_OF_ONE = 4.0  # a position weighs block/masked, at most this


@dataclass(frozen=True, slots=True)
class Losses:
    """Weighted cross-entropies, added up: total and weight are scalars; the mean is total/weight."""

    total: Tensor
    weight: Tensor
    tokens: int

    @classmethod
    def of(cls, logits: Tensor, targets: Tensor, weight: Tensor) -> Self:
        """Of logits (n, V), targets (n,) and their weights (n,)."""
        each = functional.cross_entropy(logits, targets, reduction="none")
        return cls((each * weight).sum(), weight.sum(), len(targets))

    @classmethod
    def sum(cls, parts: Sequence[Self]) -> Self:
        """Several as one."""
        total, weight = sum(part.total for part in parts), sum(part.weight for part in parts)
        return cls(torch.as_tensor(total), torch.as_tensor(weight), sum(part.tokens for part in parts))


def context_loss(
    config: ModelConfig, tower: TowerWeights, batch: Batch, size: int, result_weight: float, loads: Loads
) -> Losses:
    """Next-token cross-entropy over the answers."""
    hidden = context_hidden(config, tower, batch.ids, batch.real, size, loads)[0]
    logits = context_logits(config, tower, hidden[:, batch.answer - 1 : -1][batch.first])
    targets = batch.ids[:, batch.answer :][batch.first]
    return Losses.of(logits, targets, 1 + (result_weight - 1) * batch.results[batch.first])


def denoiser_loss(
    config: ModelConfig,
    context: TowerWeights,
    tower: TowerWeights,
    batch: Batch,
    size: int,
    masks: str,
    passes: int,
    result_weight: float,
    random: torch.Generator,
    loads: Loads,
) -> Losses:
    """Cross-entropy over masked positions, added up over several passes over each block.

    With masks "sampler" the passes go the sampler's way with right tokens: first everything is masked; each
    later pass leaves a random number of those positions masked of which the pass before was least sure. For
    one block in seven the positions are random. With masks "random" number and positions are random in every
    pass.

    A position weighs more the fewer are masked beside it, so that the last steps of a block count as the
    first.
    """
    with torch.no_grad():
        _, seeds = context_hidden(config, context, batch.ids, batch.real, size, {})
    right = batch.ids[:, batch.answer :].unflatten(1, (-1, size))  # (B, A, S)
    needed = (
        torch.arange(right.shape[1], device=right.device) * size < batch.ends[:, None]
    )  # up to eos's block
    masked = torch.ones_like(right, dtype=torch.bool)
    weight = 1 + (result_weight - 1) * batch.results.view(right.shape)
    sure = torch.zeros(right.shape, device=right.device)
    losses = []
    for i in range(passes):
        if masks == "random":
            left = uniform(random, needed.shape, right.device).mul(size).long() + 1
            masked = lowest(uniform(random, right.shape, right.device), left)
        elif i > 0:
            open_places = masked.sum(-1)
            left = (uniform(random, needed.shape, right.device) * (open_places - 1)).long() + 1
            stray = uniform(random, needed.shape, right.device) < 1 / 7
            order = torch.where(stray[..., None], uniform(random, right.shape, right.device), sure)
            masked = lowest(order.masked_fill(~masked, 2.0), left)
        blocks = right.masked_fill(masked, MASK)
        logits = denoiser_logits(config, tower, blocks, masked.float().mean(-1), seeds, batch.real, loads)
        wanted = masked & needed[..., None]
        evenly = (size / masked.sum(-1, keepdim=True)).clamp(max=MOST_OF_ONE)
        losses.append(Losses.of(logits[wanted], right[wanted], (weight * evenly)[wanted]))
        sure = predict(logits.detach())[1]
    return Losses.sum(losses)


def context_solves(config: ModelConfig, tower: TowerWeights, batch: Batch, size: int) -> Tensor:
    """(B,) bool: whether greedy decoding would write the whole answer, i.e. every next token is right."""
    hidden = context_hidden(config, tower, batch.ids, batch.real, size, {})[0]
    right = (
        context_logits(config, tower, hidden[:, batch.answer - 1 : -1]).argmax(-1)
        == batch.ids[:, batch.answer :]
    )
    return (right | ~batch.first).all(-1)


def denoiser_solves(
    config: ModelConfig, context: TowerWeights, tower: TowerWeights, batch: Batch, size: int
) -> tuple[Tensor, int]:
    """(B,) bool: whether the sampler would write the whole answer, and the denoiser evaluations of all rows.

    All blocks are filled at once, each after the right tokens before it: the answer comes out whole exactly
    if every block does.
    """
    _, seeds = context_hidden(config, context, batch.ids, batch.real, size, {})
    right = batch.ids[:, batch.answer :].unflatten(1, (-1, size))
    needed = torch.arange(right.shape[1], device=right.device) * size < batch.ends[:, None]
    blocks = torch.full_like(right, MASK)
    evaluations = 0
    while (masked := blocks == MASK).any():
        evaluations += int((masked.any(-1) & needed).sum())
        logits = denoiser_logits(config, tower, blocks, masked.float().mean(-1), seeds, batch.real, {})
        predicted, sure = predict(logits)
        sure = sure.masked_fill(~masked, -1.0)
        best = masked & (sure == sure.max(-1, keepdim=True).values)
        blocks = torch.where(masked & ((sure > THRESHOLD) | best), predicted, blocks)
    wrong = (blocks != right).flatten(1) & batch.first
    return ~wrong.any(-1), evaluations


def predict(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token that is not the mask, and its probability."""
    logits = logits.clone()
    logits[..., MASK] = -torch.inf
    sure, predicted = logits.softmax(-1).max(-1)
    return predicted, sure


def lowest(order: Tensor, count: Tensor) -> Tensor:
    """Bool: the `count` (…) lowest entries of `order` (…, S)."""
    return order.argsort(-1).argsort(-1) < count[..., None]


def uniform(generator: torch.Generator, shape: torch.Size, device: torch.device) -> Tensor:
    """Uniform numbers, the same on every device."""
    return torch.rand(shape, generator=generator).to(device)
