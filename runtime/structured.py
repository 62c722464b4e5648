"""Structured output: grammars built and followed by llguidance, for one tokenizer.

A grammar is built, and its first mask computed, where a call is read, so that one which cannot be followed is
refused there. Every row follows a copy of its own.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ttc.base.distribution import install
from ttc.errors import BundleError, InputError, MissingDependencyError
from ttc.model.config import ModelConfig
from ttc.runtime.decoding.grammar import Grammar, GrammarSource

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["Grammars"]

Bools = npt.NDArray[np.bool_]
# Built grammars that are kept, as many requests ask for the same one.
_MOST_KEPT = 16
# With these the worst masks of hostile grammars take tenths of a second; the defaults allow several seconds.
_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 100_000,
    "step_lexer_fuel": 20_000,
    "step_max_items": 20_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
# Between the tokens of a JSON text. A model that is unsure may write blanks until its tokens run out.
_JSON_OPTIONS: Any = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,40}"}
_MOST_QUOTED = 100


class Grammars:
    """Makes the grammars of rows. Thread-safe.

    Args:
        tokenizer: None where the bundle has none.
        config: the model's configuration.
    """

    def __init__(self, tokenizer: Tokenizer | None, config: ModelConfig) -> None:
        self._tokenizer, self._config = tokenizer, config
        self._vocabulary: LLTokenizer | None = None
        self._built: OrderedDict[GrammarSource, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def grammar(self, source: GrammarSource, eos_token_ids: Collection[int]) -> Grammar:
        """Return a grammar for one row.

        eos_token_ids: what may end the row where the text is complete.

        Raises:
            InputError: the grammar cannot be followed.
            MissingDependencyError: llguidance is not installed.
        """
        with self._lock:
            vocabulary = self._vocabulary = self._vocabulary or self._read_vocabulary(source)
            matcher = self._built.get(source)
        if matcher is None:  # two threads may build the same, rather than wait for each other's
            matcher = _built(source, vocabulary)
        with self._lock:
            self._built[source] = matcher
            self._built.move_to_end(source)
            if len(self._built) > _MOST_KEPT:
                self._built.popitem(last=False)
            return _RowGrammar(matcher.deep_copy(), vocabulary.eos_tokens, sorted(eos_token_ids))

    def _read_vocabulary(self, source: GrammarSource) -> "LLTokenizer":
        try:
            from llguidance import LLTokenizer
        except ImportError as fault:
            raise MissingDependencyError(
                f"{source.kind} needs llguidance ({fault}); install it with: {install('structured')}"
            ) from None
        if self._tokenizer is None:
            raise InputError(
                f"{source.kind} is about text, but the bundle has no tokenizer.json; leave it out"
            )
        config = self._config
        try:
            # Any eos will do: rows have their own.
            return LLTokenizer(
                self._tokenizer.to_str(),
                n_vocab=config.vocab_size,
                eos_token=list(config.eos_token_ids) or None,
            )
        except ValueError as fault:
            raise BundleError(
                f"{source.kind}: llguidance does not read the bundle's tokenizer.json ({_short(fault)})"
            ) from None


def _built(source: GrammarSource, vocabulary: "LLTokenizer") -> "LLMatcher":
    """Build a grammar and compute its first mask."""
    from llguidance import LLMatcher, LLParserLimits

    try:
        text = _llguidance_text(source)
    except ValueError as fault:
        raise InputError(f"{source.kind} cannot be followed: {_short(fault)}") from None
    matcher = LLMatcher(vocabulary, text, log_level=0, limits=LLParserLimits(**_LIMITS))
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise InputError(f"{source.kind} cannot be followed: {_short(matcher.get_error())}")
    return matcher


def _llguidance_text(source: GrammarSource) -> str:
    from llguidance import LLMatcher

    if source.kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(source.text, defaults=_JSON_OPTIONS)
    if source.kind == "regex":
        return LLMatcher.grammar_from_regex(source.text)
    # A text is written in Lark as in JSON.
    return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, json.loads(source.text))))


def _short(fault: object) -> str:
    """Return the one line of an error of llguidance that says what is wrong; the others quote the grammar."""
    lines = str(fault).splitlines() or [""]
    line = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    return line if len(line) <= _MOST_QUOTED else line[:_MOST_QUOTED] + "…"


class _RowGrammar:
    """A `Grammar`. The matcher stands after the row's tokens and, between calls, some tokens of a draft."""

    def __init__(self, matcher: "LLMatcher", drop: Sequence[int], eos: Sequence[int]) -> None:
        """drop: ids that the matcher takes for eos. eos: the row's own."""
        self._matcher, self._drop, self._eos = matcher, list(drop), list(eos)
        self._ahead: list[int] = []
        # By the drafted tokens before it.
        self._masks: dict[tuple[int, ...], Bools] = {}

    @property
    def complete(self) -> bool:
        self._go_to(())
        return not self._matcher.is_error() and self._matcher.is_accepting()

    @property
    def problem(self) -> str:
        if self._matcher.is_error():
            return f"its grammar cannot be followed further ({_short(self._matcher.get_error())})"
        return "its grammar allows none of what is not banned"

    def mask(self, draft: Sequence[int]) -> "_DraftMask":
        return _DraftMask(self, tuple(draft))

    def usable(self, draft: Sequence[int]) -> int:
        self._go_to(())
        end = next((i for i, token in enumerate(draft) if token in self._eos), len(draft))
        return self._matcher.validate_tokens(list(draft[:end]))

    def push(self, tokens: Sequence[int]) -> int | None:
        self._go_to(())
        self._masks.clear()
        for i, token in enumerate(tokens):
            if token in self._eos or not self._matcher.consume_token(token):
                return None
            if self._matcher.is_stopped() and not self._matcher.is_error():
                return i + 1
        return None

    def allowed(self, drafted: tuple[int, ...]) -> Bools:
        """Return (V,) booleans: what may come after these tokens of a draft, all of them usable."""
        if drafted not in self._masks:
            self._go_to(drafted)
            mask = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8) != 0
            mask[self._drop] = False
            mask[self._eos] = self._matcher.is_accepting()
            # In an error state llguidance allows eos, which would cut the text short without a word.
            self._masks[drafted] = np.zeros_like(mask) if self._matcher.is_error() else mask
        return self._masks[drafted]

    def _go_to(self, drafted: Sequence[int]) -> None:
        """Let the matcher stand after these tokens of a draft."""
        if self._matcher.is_error():
            return
        shared = 0
        while shared < min(len(drafted), len(self._ahead)) and drafted[shared] == self._ahead[shared]:
            shared += 1
        if len(self._ahead) > shared:
            self._matcher.rollback(len(self._ahead) - shared)
        if len(drafted) > shared:
            self._matcher.consume_tokens(list(drafted[shared:]))
        self._ahead = list(drafted)


class _DraftMask:
    """The masks along a draft."""

    def __init__(self, grammar: _RowGrammar, draft: tuple[int, ...]) -> None:
        self._grammar, self._draft = grammar, draft

    def at(self, position: int) -> Bools:
        return self._grammar.allowed(self._draft[:position])
