"""Rows of a core that draft what a test plans."""

from dataclasses import dataclass

from ttc.plugins.counter_rng import row_key
from ttc.runtime.decoding.core import Core
from ttc.runtime.decoding.device import BackendDevice
from ttc.runtime.decoding.modes.speculative import Speculative
from ttc.runtime.decoding.options import GenerationOptions, check_options
from ttc.runtime.decoding.plan import CoreLimits
from ttc.runtime.decoding.request import RowRequest

NEW = 24


@dataclass(frozen=True)
class Ready:
    tokens: tuple[int, ...]
    filling: None = None


class Planned:
    """Drafts of given lengths, right up to a given token."""

    def __init__(self, ar_text, rounds, vocabulary):
        self.ar_text, self.rounds, self.vocabulary = ar_text, list(rounds), vocabulary
        self.accepted = []

    def propose(self, row):
        length, right = self.rounds.pop(0) if self.rounds else (0, 0)
        start = len(row.tokens)
        tokens = list(self.ar_text[start : start + length])
        if right < length:
            tokens[right] = (tokens[right] + 1) % self.vocabulary
        return Ready(tuple(tokens))

    def observe(self, row, draft, accepted):
        self.accepted.append(accepted)


def make_rows(backend, prompts, texts, rounds, **given):
    """A core whose rows draft as planned; `rounds[r]` are the (length, right) of row r."""
    drafters = [
        Planned(text, own, backend.config.vocab_size) for text, own in zip(texts, rounds, strict=True)
    ]
    core = Core(
        BackendDevice(backend, 512),
        lambda row: Speculative(drafters[row.request.index]),
        CoreLimits(16, None, 4096),
        64,
    )
    asked = GenerationOptions(mode="lossless", max_new_tokens=NEW, stop_at_eos=False, **given)
    options = check_options(asked, backend.config)
    key = row_key(options.seed or 0, 0)
    rows = [
        core.submit(RowRequest(tuple(prompt), options, key, NEW, index=i)) for i, prompt in enumerate(prompts)
    ]
    return core, rows, drafters
