"""The options of a generation: named and given their defaults once, checked once."""

import dataclasses
import logging
import math
import numbers
import operator
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ttc.base.names import MODES
from ttc.base.suggestion import suggestion
from ttc.errors import InputError
from ttc.formats.strictjson import quoted
from ttc.model.config import ModelConfig
from ttc.runtime.decoding.grammar import GrammarSource, read_grammar

__all__ = [
    "MAX_BLOCK_SIZE",
    "CheckedOptions",
    "GenerationOptions",
    "check_names",
    "check_options",
    "with_own_seed",
]

logger = logging.getLogger(__name__)

TRAINED_BLOCK_SIZE = 16
# The scan of a block is exact up to a few hundred tokens, and quadratic in them.
MAX_BLOCK_SIZE = 512
# Below this, logits over temperature leave the range in which float32 tells neighbours apart.
MIN_TEMPERATURE = 1e-3
MAX_STOP_TEXTS = 4
MAX_CHOICES = 1024
_MAX_SEED = 2**63 - 1
_SAMPLES = ("ar", "mock-ar", "lossless", "prompt-lookup")
_FOLLOWS_GRAMMARS = ("ar", "lossless", "prompt-lookup")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """What a generation is asked for; every option with its default.

    Attributes:
        mode: "diffusion"; "ar", the context tower alone; "mock-ar", the denoiser one token at a time;
            "lossless", AR's text, drafted by the denoiser and verified by the context tower;
            "prompt-lookup", AR's text, drafted from what followed the same tokens before.
        max_new_tokens: need not be a multiple of the block; None: until eos, a stop text or the end of the
            context.
        min_tokens: no eos before so many new tokens (not in diffusion).
        block_size: tokens of a block of mask diffusion.
        steps: the most denoiser evaluations that fill a block.
        threshold: a step commits every prediction more probable than this.
        finish_early: end a block's steps when every token that will be kept is committed; the same tokens,
            fewer evaluations (diffusion).
        temperature: 0 is greedy.
        top_k: keep the k most probable tokens (not in diffusion).
        top_p: keep the fewest most probable tokens that reach this probability (not in diffusion).
        seed: makes a sampled run repeatable; the one that was used is in the statistics.
        n: how many texts to write for the prompt. Choice i is what a call with `choice=i` alone gives.
        choice: which of the texts that one seed gives.
        eos_token_id: one id or several; None means the model's own.
        stop_at_eos: False ignores them.
        stop: a text or up to 4 of them; the text ends before the first that appears.
        banned_token_ids: never sampled (not in diffusion).
        json_schema: the text is JSON that fits this schema, a dict or JSON text (in ar, lossless and
            prompt-lookup, as the next two). {"type": "object"} lets any JSON object pass.
        regex: the text as a whole matches this regular expression.
        one_of: the text is one of these.
        logprobs: put the log-probability of every new token, at the moment it was committed, into the result.
        prompt_logprobs: put that of every token of the prompt but the first into the result; the prefix cache
            is not asked then.
        skip_special_tokens: leave control tokens out of the text.
        split_special_tokens: read control tokens that stand in a text prompt as plain text.
        draft_steps: of lossless mode: 1 to `steps` denoiser evaluations for a draft that fills the block;
            "auto" chooses its length and its evaluations by what they cost and what they bring.
        deadline: seconds after which the row ends in an error; None for no bound.
    """

    mode: str = "diffusion"
    max_new_tokens: int | None = 128
    min_tokens: int = 0
    block_size: int = 16
    steps: int = 16
    threshold: float = 0.9
    finish_early: bool = False
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    n: int = 1
    choice: int = 0
    eos_token_id: int | Collection[int] | None = None
    stop_at_eos: bool = True
    stop: str | Sequence[str] | None = None
    banned_token_ids: Collection[int] = ()
    json_schema: Mapping[str, Any] | str | None = None
    regex: str | None = None
    one_of: Sequence[str] | None = None
    logprobs: bool = False
    prompt_logprobs: bool = False
    skip_special_tokens: bool = True
    split_special_tokens: bool = False
    draft_steps: int | str = "auto"
    deadline: float | None = None


_NAMES = tuple(field.name for field in dataclasses.fields(GenerationOptions))


def check_names(given: Iterable[str]) -> None:
    """Raise `TypeError` if one of these is not the name of an option."""
    if unknown := sorted(set(given) - set(_NAMES)):
        meant = suggestion(unknown[0], _NAMES)
        raise TypeError(f"unknown option {unknown[0]!r}{meant}; valid: {', '.join(_NAMES)}")


@dataclass(frozen=True, slots=True)
class CheckedOptions:
    """Checked options: those of `GenerationOptions`, with these differences.

    Attributes:
        seed: set whenever something is drawn, also where the user gave none.
        draft_steps: most denoiser evaluations of a draft; None leaves the choice to the policy.
        eos_token_ids: ids that end a row; empty where nothing does.
        stop: texts.
        grammar: what `json_schema`, `regex` or `one_of` asks for; None for nothing.
        notes: warnings that belong into the result, one sentence each.
    """

    mode: str
    max_new_tokens: int | None
    min_tokens: int
    block_size: int
    steps: int
    threshold: float
    finish_early: bool
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int | None
    n: int
    choice: int
    stop: tuple[str, ...]
    banned_token_ids: tuple[int, ...]
    grammar: GrammarSource | None
    logprobs: bool
    prompt_logprobs: bool
    skip_special_tokens: bool
    split_special_tokens: bool
    draft_steps: int | None
    deadline: float | None
    eos_token_ids: frozenset[int]
    notes: tuple[str, ...]


def check_options(options: GenerationOptions, config: ModelConfig) -> CheckedOptions:
    """Return the options made ready for a model.

    Raises:
        InputError: an option is not valid, or the mode cannot honour it; the message says what is.
    """
    asked = options
    if not isinstance(asked.mode, str) or asked.mode not in MODES:
        meant = suggestion(asked.mode, MODES)
        raise InputError(f"unknown mode {quoted(asked.mode)}{meant}; valid: {', '.join(MODES)}")
    steps = _integer("steps", asked.steps, 1, 2**31 - 1)
    temperature = _temperature(asked.temperature)
    top_k = None if asked.top_k is None else _integer("top_k", asked.top_k, 1, 2**31 - 1)
    top_p = None if asked.top_p is None else _number("top_p", asked.top_p, 0.0, 1.0)
    seed = None if asked.seed is None else _integer("seed", asked.seed, 0, _MAX_SEED)
    maximum = asked.max_new_tokens
    checked = CheckedOptions(
        mode=asked.mode,
        max_new_tokens=None if maximum is None else _integer("max_new_tokens", maximum, 0, 2**31 - 1),
        min_tokens=_integer("min_tokens", asked.min_tokens, 0, 2**31 - 1),
        block_size=_integer(
            "block_size", asked.block_size, 1, MAX_BLOCK_SIZE, "a longer block's scan is not exact"
        ),
        steps=steps,
        threshold=_number("threshold", asked.threshold, 0.0, 1.0),
        finish_early=_switch("finish_early", asked.finish_early),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=(_drawn_seed() if seed is None else seed) if temperature > 0 else None,
        n=_integer("n", asked.n, 1, MAX_CHOICES),
        choice=_integer("choice", asked.choice, 0, MAX_CHOICES - 1, "for one of several texts: one_of"),
        stop=_stop_texts(asked.stop),
        banned_token_ids=_token_ids("banned_token_ids", asked.banned_token_ids, config),
        grammar=read_grammar(asked.json_schema, asked.regex, asked.one_of),
        logprobs=_switch("logprobs", asked.logprobs),
        prompt_logprobs=_switch("prompt_logprobs", asked.prompt_logprobs),
        skip_special_tokens=_switch("skip_special_tokens", asked.skip_special_tokens),
        split_special_tokens=_switch("split_special_tokens", asked.split_special_tokens),
        draft_steps=_draft_steps(asked.draft_steps, steps),
        deadline=_deadline(asked.deadline),
        eos_token_ids=_eos(config, asked),
        notes=_notes(asked, temperature),
    )
    _refuse_for_mode(checked)
    _refuse_full_ban(checked, config)
    return checked


def with_own_seed(options: CheckedOptions) -> CheckedOptions:
    """Return a copy with another drawn seed, if it has one: prompts of a batch are no repetitions."""
    return options if options.seed is None else dataclasses.replace(options, seed=_drawn_seed())


def _drawn_seed() -> int:
    return secrets.randbits(63)


def _refuse_for_mode(options: CheckedOptions) -> None:
    """Options that the mode cannot honour."""
    mode, sampled = options.mode, options.mode in _SAMPLES
    if not sampled and (options.top_k is not None or options.top_p is not None):
        raise InputError(
            "top_k and top_p do not apply to mode 'diffusion' (the model's rule has neither); "
            "use 'ar' or 'lossless'"
        )
    for name, given in (("min_tokens", options.min_tokens), ("banned_token_ids", options.banned_token_ids)):
        if given and not sampled:
            raise InputError(f"{name} does not apply to mode {mode!r}; valid: {', '.join(_SAMPLES)}")
    if options.grammar is not None and mode not in _FOLLOWS_GRAMMARS:
        raise InputError(
            f"{options.grammar.kind} does not apply to mode {mode!r}; valid: {', '.join(_FOLLOWS_GRAMMARS)}"
        )
    if options.finish_early and mode != "diffusion":
        raise InputError(f"finish_early does not apply to mode {mode!r}; it is for mode 'diffusion'")
    if options.logprobs and mode == "prompt-lookup":
        raise InputError(
            "logprobs does not apply to mode 'prompt-lookup'; "
            "use 'ar' or 'lossless', which give the same text"
        )
    if options.max_new_tokens is not None and options.min_tokens > options.max_new_tokens:
        raise InputError(
            f"min_tokens is {options.min_tokens}, more than max_new_tokens {options.max_new_tokens}"
        )


def _refuse_full_ban(options: CheckedOptions, config: ModelConfig) -> None:
    """Something must be left to sample, also while eos is not allowed yet."""
    early = options.eos_token_ids if options.min_tokens else frozenset()
    if len(early.union(options.banned_token_ids)) == config.vocab_size:
        raise InputError(
            "banned_token_ids holds the whole vocabulary (before min_tokens, the eos ids count as well); "
            "leave a token to sample"
        )


def _notes(asked: GenerationOptions, temperature: float) -> tuple[str, ...]:
    notes = []
    if temperature == 0 and (asked.top_k is not None or asked.top_p is not None):
        notes.append("top_k and top_p have no effect at temperature 0: greedy decoding takes the best token")
    if asked.mode == "diffusion" and asked.block_size != TRAINED_BLOCK_SIZE:
        notes.append(
            f"block_size is {asked.block_size}: the model was trained on {TRAINED_BLOCK_SIZE}, "
            "others lose quality"
        )
    for note in notes:
        _warn_once(note)
    return tuple(notes)


@lru_cache(maxsize=256)
def _warn_once(note: str) -> None:
    """Log a note when it is first made: a service makes it with every request, and results carry it."""
    logger.warning(note)


def _eos(config: ModelConfig, asked: GenerationOptions) -> frozenset[int]:
    given = asked.eos_token_id
    if given is None:
        ids: tuple[int, ...] = config.eos_token_ids
    elif isinstance(given, Mapping | str | bytes):
        raise InputError(f"eos_token_id is {quoted(given)}; valid: a token id or several")
    else:
        is_one = isinstance(given, numbers.Integral) or getattr(given, "shape", None) == ()
        several: Any = [given] if is_one or not hasattr(given, "__iter__") else given
        ids = _token_ids("eos_token_id", several, config)
        if config.mask_token_id in ids:
            raise InputError(f"eos_token_id is {quoted(given)}; {config.mask_token_id} is the mask id")
    return frozenset(ids) if _switch("stop_at_eos", asked.stop_at_eos) else frozenset()


def _token_ids(name: str, ids: Any, config: ModelConfig) -> tuple[int, ...]:
    # An iterator would serve the first row alone.
    if isinstance(ids, Mapping | str | bytes | Iterator) or not hasattr(ids, "__iter__"):
        raise InputError(f"{name} is {quoted(ids)}; valid: token ids, such as a list")
    return tuple(_integer(name, token, 0, config.vocab_size - 1) for token in ids)


def _temperature(value: Any) -> float:
    temperature = _number("temperature", value, 0.0, 1e4)
    if 0 < temperature < MIN_TEMPERATURE:
        raise InputError(
            f"temperature is {quoted(value)}; valid: 0 (greedy), or {MIN_TEMPERATURE:g} to 10000"
        )
    return temperature


def _draft_steps(value: Any, steps: int) -> int | None:
    if isinstance(value, str):
        if value != "auto":
            raise InputError(f"draft_steps is {quoted(value)}; valid: 'auto', or a number of steps")
        return None
    return _integer("draft_steps", value, 1, steps, "steps is the most a block may take")


def _stop_texts(value: Any) -> tuple[str, ...]:
    texts = () if value is None else (value,) if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"stop is {quoted(value)}; valid: a text, or up to {MAX_STOP_TEXTS} of them")
    if len(texts) > MAX_STOP_TEXTS:
        raise InputError(f"stop has {len(texts)} texts; valid: up to {MAX_STOP_TEXTS}")
    if "" in texts:
        raise InputError("stop has an empty text, which would end everything at once; leave it out")
    return tuple(texts)


def _deadline(value: Any) -> float | None:
    if value is None:
        return None
    seconds = _real(value)
    if not math.isfinite(seconds):
        raise InputError(f"deadline is {quoted(value)}; valid: seconds from now, above 0")
    if seconds <= 0:
        raise InputError(f"deadline is {quoted(value)}, which has passed; valid: seconds from now, above 0")
    return seconds


def _switch(name: str, value: Any) -> bool:
    if value is True or value is False:
        return value
    # numpy's booleans count as well; a text never does.
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise InputError(f"{name} is {quoted(value)}; valid: True or False")
    return bool(value)


def _integer(name: str, value: Any, low: int, high: int, why: str = "") -> int:
    if type(value) is int and low <= value <= high:
        return value
    whole = not _is_bool(value) and isinstance(value, numbers.Integral)
    if not whole and hasattr(value, "__index__") and not _is_bool(value):
        try:  # an array or tensor without dimensions
            value, whole = operator.index(value), True
        except TypeError:
            whole = False
    if not whole or not low <= int(value) <= high:
        raise InputError(
            f"{name} is {quoted(value)}; valid: an integer from {low} to {high}"
            + (f" ({why})" if why else "")
        )
    return int(value)


def _number(name: str, value: Any, low: float, high: float) -> float:
    number = value if type(value) is float else _real(value)
    if not math.isfinite(number):
        raise InputError(f"{name} is {quoted(value)}; valid: a number from {low:g} to {high:g}")
    if not low <= number <= high:
        raise InputError(f"{name} is {quoted(value)}; valid: {low:g} to {high:g}")
    return number


def _is_bool(value: Any) -> bool:
    """Return whether it is a truth value: Python's, numpy's, or a tensor of one."""
    return isinstance(value, bool) or str(getattr(value, "dtype", "")).removeprefix("torch.") == "bool"


def _real(value: Any) -> float:
    """Return the value as a float; NaN where it is no number, or one too large."""
    if getattr(value, "shape", None) == () and hasattr(value, "item") and not _is_bool(value):
        value = value.item()  # an array or tensor without dimensions
    if _is_bool(value) or not isinstance(value, numbers.Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan
