"""From bytes and operations to the shortest times, and from those to tokens per second.

The parts of a pass run one after another, and each takes at least max(bytes / bandwidth, operations /
arithmetic rate): memory and arithmetic may overlap fully within a part, nothing else costs anything.
Launches, host work and kernels that miss the peaks come on top, so times are floors and throughputs
ceilings. Ratios between modes suffer less from what is left out.

Where all experts run on all tokens (`Routing.dense`) on a machine that packs their weights
(`Machine.packing_bytes_per_second`), a pass of more than one token takes another (bytes of all experts /
packing rate), which overlaps with nothing. One token is multiplied with the weights where they lie.

Quantised experts are decoded by the kernel that multiplies with them; where the rate of that is known
(`expert_formats.decode_rate`), their part takes at least (weights decoded / rate), too.

With S tokens in a block, r tokens per NFE, t_ar, t_nfe and t_ext the times of an AR step, an NFE and an
extension of the whole batch of B rows:

    AR              B / t_ar
    diffusion       B·S / ((S/r)·t_nfe + t_ext)
    lossless        B·a / (d·t_nfe + t_ver): d NFE draft a block, a tokens of it (AR's own next one included)
                    are kept; t_ver reads the block and gives logits everywhere
    prompt lookup   B·a / t_ver: the same, drafts cost nothing

    break-even      r = S·t_nfe / (S·t_ar − t_ext), where that is positive; a = (d·t_nfe + t_ver) / t_ar
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ttc.base.quantised import PLAIN
from ttc.errors import InputError
from ttc.model.config import ModelConfig
from ttc.planning.expert_formats import ExpertFormats, decode_rate, experts_bytes
from ttc.planning.experts import Routing
from ttc.planning.machines import Machine
from ttc.planning.passes import (
    EXPERTS,
    context_pass,
    decoded_weights,
    denoiser_pass,
    state_bytes,
    total,
    tower_bytes,
)
from ttc.plugins.costs import Cost

__all__ = ["Diffusion", "Forecast", "Lossless", "Pass", "Question", "forecast", "winning_batches"]

# Largest batch looked at for a crossover.
MAX_BATCH = 4096


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: the model, the machine, and how it is used.

    Attributes:
        context: tokens in the caches.
        itemsize: bytes of the compute dtype.
        formats: of the routed experts of each tower.
        accepted, draft_steps: tokens that a lossless round keeps, and NFE that its draft takes.
    """

    config: ModelConfig
    machine: Machine
    block_size: int = 16
    context: int = 1024
    itemsize: int = 2
    routing: Routing = field(default_factory=Routing)
    accepted: float = 8.0
    draft_steps: float = 2.0
    formats: ExpertFormats = field(default_factory=ExpertFormats)

    def __post_init__(self) -> None:
        if not 1 <= self.block_size <= 512:
            raise InputError(f"block size is {self.block_size}; valid: 1 to 512")
        if not 0 <= self.context <= self.config.max_position_embeddings:
            limit = self.config.max_position_embeddings
            raise InputError(f"context is {self.context}; valid: 0 to {limit} tokens")
        if not 1 <= self.accepted <= self.block_size or not 0 < self.draft_steps <= 512:
            raise InputError(
                f"a lossless round of {self.draft_steps} draft steps that keeps {self.accepted} tokens; "
                f"valid: more than 0 steps, up to 512; 1 to {self.block_size} tokens"
            )
        if self.routing.dense and self.formats != ExpertFormats():
            raise InputError(
                f"experts in {self.formats} with every expert on every token: what computes so decodes them "
                "while loading; plan for plain experts"
            )


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass for the whole batch. `limit`: "memory", "arithmetic", "packing" or "decode", whichever takes
    most of the seconds.
    """

    bytes: float
    flops: float
    experts: float
    seconds: float
    limit: str


@dataclass(frozen=True, slots=True)
class Diffusion:
    """Diffusion at one number of tokens per NFE. `over_ar`: how many times AR's tokens per second."""

    tokens_per_nfe: float
    tokens_per_second: float
    over_ar: float


@dataclass(frozen=True, slots=True)
class Lossless:
    """Lossless decoding, or prompt lookup. `break_even`: tokens a round must keep to be as fast as AR."""

    tokens_per_second: float
    over_ar: float
    break_even: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """One batch size.

    Attributes:
        weight_bytes: tower → bytes of its weights.
        memory_bytes: weights of both towers and the state of all rows.
        fits: on the machine.
        nfe_in_ar_steps: time of an NFE over that of an AR step, without the extension.
        break_even: tokens per NFE with which diffusion is as fast as AR; None where none is enough.
    """

    batch: int
    weight_bytes: Mapping[str, float]
    memory_bytes: float
    fits: bool
    ar_step: Pass
    nfe: Pass
    extension: Pass
    verification: Pass
    ar_tokens_per_second: float
    nfe_in_ar_steps: float
    break_even: float | None
    diffusion: tuple[Diffusion, ...]
    lossless: Lossless
    prompt_lookup: Lossless


def forecast(question: Question, batch: int, tokens_per_nfe: Sequence[float]) -> Forecast:
    """Return everything that is foretold for one batch size."""
    if not 1 <= batch <= MAX_BATCH:
        raise InputError(f"batch is {batch}; valid: 1 to {MAX_BATCH}")
    for rate in tokens_per_nfe:
        if not 0 < rate <= question.block_size:
            raise InputError(f"tokens per NFE is {rate}; valid: more than 0, up to {question.block_size}")
    config, S = question.config, question.block_size
    ar_step, nfe, extension, verification = _passes(question, batch)
    ar = batch / ar_step.seconds
    saved = S * ar_step.seconds - extension.seconds
    weights = tower_bytes(config, question.itemsize, question.formats)
    memory = sum(weights.values()) + state_bytes(config, batch, question.context, question.itemsize)
    found = []
    for rate in tokens_per_nfe:
        speed = batch * S / (S / rate * nfe.seconds + extension.seconds)
        found.append(Diffusion(rate, speed, speed / ar))
    draft = question.draft_steps * nfe.seconds
    return Forecast(
        batch=batch,
        weight_bytes=weights,
        memory_bytes=memory,
        fits=memory <= question.machine.memory_bytes,
        ar_step=ar_step,
        nfe=nfe,
        extension=extension,
        verification=verification,
        ar_tokens_per_second=ar,
        nfe_in_ar_steps=nfe.seconds / ar_step.seconds,
        break_even=S * nfe.seconds / saved if saved > 0 else None,
        diffusion=tuple(found),
        lossless=_rounds(question, batch, draft + verification.seconds, ar_step.seconds),
        prompt_lookup=_rounds(question, batch, verification.seconds, ar_step.seconds),
    )


def winning_batches(question: Question, tokens_per_nfe: float) -> tuple[int, int] | None:
    """Return the smallest and the largest batch, up to 4096, at which diffusion is faster than AR; None where
    none is.

    Small batches of a mixture of experts favour AR, whose one token per row reads few experts; large ones run
    into the arithmetic, of which diffusion does more per token. Between the ends there is taken to be no gap.
    """
    grid = [2**power for power in range(MAX_BATCH.bit_length())]
    wins = [size for size in grid if _wins(question, size, tokens_per_nfe)]
    if not wins:
        return None
    first, last = wins[0], wins[-1]
    if first > 1:
        first = _edge(question, tokens_per_nfe, first, first // 2)
    if last < MAX_BATCH:
        last = _edge(question, tokens_per_nfe, last, 2 * last)
    return first, last


def _edge(question: Question, rate: float, winning: int, losing: int) -> int:
    """Return the last batch that wins on the way from one that does to one that does not."""
    while abs(losing - winning) > 1:
        middle = (winning + losing) // 2
        if _wins(question, middle, rate):
            winning = middle
        else:
            losing = middle
    return winning


def _wins(question: Question, batch: int, rate: float) -> bool:
    return forecast(question, batch, [rate]).diffusion[0].over_ar > 1


def _passes(question: Question, batch: int) -> tuple[Pass, Pass, Pass, Pass]:
    """Return the passes: an AR step, an NFE, an extension, a verification."""
    config, S, C, size = question.config, question.block_size, question.context, question.itemsize
    routing, formats = question.routing, question.formats
    one = context_pass(config, batch, 1, C, size, routing, experts=formats.context)
    nfe = denoiser_pass(config, batch, S, C, size, routing, formats.denoiser)
    extension = context_pass(config, batch, S, C, size, routing, experts=formats.context)
    verification = context_pass(config, batch, S, C, size, routing, logits=S, experts=formats.context)
    return (
        _pass(question, one, batch, 1, formats.context),
        _pass(question, nfe, batch, S, formats.denoiser),
        _pass(question, extension, batch, S, formats.context),
        _pass(question, verification, batch, S, formats.context),
    )


def _pass(question: Question, parts: Mapping[str, Cost], rows: int, length: int, word: str) -> Pass:
    config, machine = question.config, question.machine
    seconds = dict.fromkeys(("memory", "arithmetic", "packing", "decode"), 0.0)
    rate = decode_rate(word, machine)
    for name, cost in parts.items():
        limits = {
            "memory": cost.bytes / machine.bytes_per_second,
            "arithmetic": cost.flops / machine.flops_per_second,
        }
        if name == EXPERTS and rate is not None:
            limits["decode"] = decoded_weights(config, rows, length, question.routing) / rate
        longest = max(limits, key=limits.__getitem__)
        seconds[longest] += limits[longest]
    if machine.packing_bytes_per_second is not None and question.routing.dense and rows * length > 1:
        packed = experts_bytes(config, PLAIN, question.itemsize)
        seconds["packing"] = packed / machine.packing_bytes_per_second
    experts = 0.0
    if config.n_routed_experts:
        experts = question.routing.experts(config.n_routed_experts, config.num_experts_per_tok, rows, length)
    whole = total(parts)
    return Pass(
        whole.bytes, whole.flops, experts, sum(seconds.values()), max(seconds, key=seconds.__getitem__)
    )


def _rounds(question: Question, batch: int, seconds: float, ar_step: float) -> Lossless:
    speed = batch * question.accepted / seconds
    return Lossless(speed, speed / (batch / ar_step), seconds / ar_step)
