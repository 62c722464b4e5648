"""The denoiser's last phase: what the context tower would write, from the states that the sampler leaves.

Against the phase before: the targets are the context tower's own greedy text, its mistakes included; a block
is only evaluated again while the sampler would, at a threshold that is drawn for each block; some answers are
cut into blocks elsewhere than at their start and show the first token of each, as drafts of lossless mode do;
and all blocks of a step, whatever sequence they belong to, are one batch.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from examples.miniature.batches import Batch
from examples.miniature.forward import Before, Loads, Seeds, block_logits, context_hidden, context_logits
from examples.miniature.objectives import MOST_OF_ONE, Losses, lowest, predict, uniform
from examples.miniature.tokenizer import EOS, MASK
from ttc.model.config import ModelConfig
from ttc.model.towers import TowerWeights

__all__ = ["own_text", "refine_loss"]

STRAY = 1 / 4  # of blocks go on with a random number of masks, whatever the threshold


@torch.no_grad()
def own_text(config: ModelConfig, tower: TowerWeights, batch: Batch, size: int) -> tuple[Batch, Seeds]:
    """The batch with the answers that the context tower writes by itself, greedily, and the states over them.

    Reads the right answers and replaces them by what the tower says at each place, until nothing changes:
    that is the greedy text, and it takes a second pass only where the tower is wrong. A text without eos in
    the room of the answers keeps no place that counts (`ends` is 0).
    """
    ids = batch.ids.clone()
    hidden, seeds = context_hidden(config, tower, ids, batch.real, size, {})
    said = _says(config, tower, hidden, batch.answer)
    other = (said != ids[:, batch.answer :]).any(-1)
    if not other.any():
        return batch, seeds
    part, real = ids[other], batch.real[other]
    said = said[other]
    while not torch.equal(said, part[:, batch.answer :]):
        part = torch.cat([part[:, : batch.answer], said], 1)
        hidden, own = context_hidden(config, tower, part, real, size, {})
        said = _says(config, tower, hidden, batch.answer)
    ids[other] = part
    for all_rows, few in zip(seeds, own, strict=True):
        for whole, of_few in zip(all_rows, few, strict=True):
            whole[other] = of_few
    answers = ids[:, batch.answer :]
    ends = torch.where((answers == EOS).any(-1), (answers == EOS).int().argmax(-1) + 1, 0)
    return replace(batch, ids=ids, ends=ends), seeds


def _says(config: ModelConfig, tower: TowerWeights, hidden: Tensor, answer: int) -> Tensor:
    """(B, answer tokens): the tower's choice after each text so far; eos after the first eos."""
    said = predict(context_logits(config, tower, hidden[:, answer - 1 : -1]))[0]
    over = (said == EOS).cumsum(-1) > 0
    return said.masked_fill(over, EOS)


def refine_loss(
    config: ModelConfig,
    context: TowerWeights,
    tower: TowerWeights,
    batches: Sequence[Batch],
    size: int,
    plan: dict[str, Any],
    result_weight: float,
    random: torch.Generator,
    loads: Loads,
) -> Losses:
    """Cross-entropy over masked places, added up over `plan["passes"]` evaluations of the blocks.

    The first evaluation sees masks only (after the first token, where an answer was begun). Before each later
    one, every block draws a threshold from `plan["thresholds"]`; places at which the evaluation before was
    surer hold their target, as does the surest one, and blocks without a mask are out. One block in four goes
    on with a random number of its least sure places instead. A place weighs more the fewer are masked beside
    it.
    """
    parts, rights, weights, shown = [], [], [], []
    for batch in batches:
        own, seeds = own_text(config, context, batch, size)
        right = own.ids[:, own.answer :].unflatten(1, (-1, size))  # (B, A, S)
        needed = torch.arange(right.shape[1], device=right.device) * size < own.ends[:, None]
        parts.append(Before.of(config, seeds, own.real, size, needed))
        rights.append(right[needed])
        shown.append(own.begun[:, None].expand_as(needed)[needed])
        weights.append((1 + (result_weight - 1) * own.results.view(right.shape))[needed])
    before, right, weight = Before.joined(config, parts), torch.cat(rights), torch.cat(weights)
    low, high = plan["thresholds"]
    masked = torch.ones_like(right, dtype=torch.bool)
    masked[:, 0] = ~torch.cat(shown)
    losses = []
    for i in range(plan["passes"]):
        blocks = right.masked_fill(masked, MASK)
        logits = block_logits(config, tower, blocks, masked.float().mean(-1), before, loads)
        evenly = (size / masked.sum(-1, keepdim=True)).clamp(max=MOST_OF_ONE)
        losses.append(Losses.of(logits[masked], right[masked], (weight * evenly)[masked]))
        if i + 1 == plan["passes"]:
            break
        sure = predict(logits.detach())[1].masked_fill(~masked, 2.0)
        count = masked.sum(-1)
        threshold = low + (high - low) * uniform(random, count.shape, right.device)
        under = (sure <= threshold[:, None]).sum(-1).minimum(count - 1)
        some = (uniform(random, count.shape, right.device) * (count - 1)).long() + 1
        stray = uniform(random, count.shape, right.device) < STRAY
        masked = lowest(sure, torch.where(stray, some.minimum(count - 1), under))
        left = masked.any(-1)
        if not left.any():
            break
        before, right, weight, masked = before.rows(left), right[left], weight[left], masked[left]
    return Losses.sum(losses)
