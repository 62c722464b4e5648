"""What structured output costs per token: computing masks and applying them, by grammar and vocabulary.

    python -m benchmarks.structured                      written to build/structured.json
    python -m benchmarks.structured --vocabulary 4096    a quick look

Two vocabularies: the miniature's, and one of the given size, trained here by the tokenizers library on the
sources of Python's standard library. A text that fits each grammar is followed token by token, as a row does:

- *mask*: which of V tokens may come next, as booleans (`at` of the row's mask).
- *apply*: leaving the others out of V float32 logits, and taking the best that is left.
- *push*: following the token.
- *usable*: how much of a draft of the next 15 tokens may come, as in lossless mode.
- *build*: the grammar and its first mask, once for all requests that ask for it; *copy*: a row's own.
"""

import argparse
import json
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.formats.shipped import shipped_checkpoint
from ttc.model.config import ModelConfig
from ttc.runtime.decoding.grammar import read_grammar
from ttc.runtime.interface.sampling import LazySamples, RowSampling, SamplingParams
from ttc.runtime.structured import Grammars

EOS = "<eos>"
RECORD = {
    "id": 4711,
    "name": "Ada Lovelace",
    "tags": ["mathematics", "analytical engine", "poetry"],
    "address": {"street": "12 St James's Square", "city": "London"},
    "notes": "She wrote the first program for a machine that was never built, and knew that it was one.",
}
SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "name": {"type": "string", "maxLength": 40},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 8},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            "required": ["street", "city"],
            "additionalProperties": False,
        },
        "notes": {"type": "string"},
    },
    "required": ["id", "name", "tags", "address", "notes"],
    "additionalProperties": False,
}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "any JSON object": ({"json_schema": {"type": "object"}}, json.dumps(RECORD)),
    "JSON schema": ({"json_schema": SCHEMA}, json.dumps(RECORD)),
    "regex": (
        {"regex": r"[A-Z][a-z]+( [a-z]+){1,40}\."},
        "The answer is given by the last of all the words in here.",
    ),
    "one of 3": ({"one_of": ["positive", "negative", "neither of the two"]}, "neither of the two"),
}


def main(arguments: list[str]) -> int:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=131072)
    parser.add_argument("--turns", type=int, default=5, help="times that a text is followed")
    parser.add_argument("--output", type=record_file, default="build/structured.json")
    asked = parser.parse_args(arguments)

    load, found = load_average(), []
    folder = shipped_checkpoint()
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = ModelConfig.from_hf(json.loads((folder / "config.json").read_text("utf-8")))
    found.append(measured("miniature", own, config, asked.turns))
    # As in real models, there are more logits than tokens.
    trained = train(asked.vocabulary)
    eos = trained.token_to_id(EOS)
    config = replace(config, vocab_size=asked.vocabulary, eos_token_ids=(eos,))
    found.append(measured("trained on Python's library", trained, config, asked.turns))
    record = {
        "script": "benchmarks/structured.py",
        "machine": asdict(machine()),
        "time": now(),
        "load": {"before": load, "after": load_average()},
        "vocabularies": found,
    }
    write_record(asked.output, record)
    show(found)
    print(f"written to {asked.output}")
    return 0


def train(size: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer of at most so many tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=1,
    )
    library = Path(sysconfig.get_path("stdlib"))
    sources = sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts)
    tokenizer.train_from_iterator((path.read_text("utf-8", "ignore") for path in sources), trainer)
    return tokenizer


def measured(name: str, tokenizer: Tokenizer, config: ModelConfig, turns: int) -> dict[str, Any]:
    """Return the figures of all grammars with one vocabulary."""
    grammars = Grammars(tokenizer, config)
    eos = config.eos_token_ids
    started = time.perf_counter()
    grammars.grammar(read_grammar(None, "x", None), eos)  # type: ignore[arg-type]  # a regex is given
    return {
        "name": name,
        "tokens": tokenizer.get_vocab_size(),
        "logits": config.vocab_size,
        "read_ms": (time.perf_counter() - started) * 1e3,
        "grammars": {case: followed(grammars, tokenizer, config, case, turns) for case in CASES},
    }


def followed(
    grammars: Grammars, tokenizer: Tokenizer, config: ModelConfig, case: str, turns: int
) -> dict[str, Any]:
    """Return the figures of one grammar."""
    options, text = CASES[case]
    source = read_grammar(options.get("json_schema"), options.get("regex"), options.get("one_of"))
    assert source is not None, "a grammar is given"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    logits = np.random.default_rng(1).standard_normal((1, 1, config.vocab_size)).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in ("copy", "usable", "mask", "apply", "push")}

    def timed(name: str, work: Callable[..., Any], *given: Any) -> Any:
        started = time.perf_counter()
        made = work(*given)
        times[name].append((time.perf_counter() - started) * 1e6)
        return made

    started = time.perf_counter()
    grammars.grammar(source, config.eos_token_ids)
    build_ms = (time.perf_counter() - started) * 1e3
    for _ in range(turns):
        grammar = timed("copy", grammars.grammar, source, config.eos_token_ids)
        for i, token in enumerate(ids):
            assert timed("usable", grammar.usable, ids[i : i + 15]) > 0
            mask = grammar.mask(())
            assert timed("mask", mask.at, 0)[token], "the text fits the grammar"
            how = SamplingParams((RowSampling(0.0, None, None, 0, 0, mask=mask),))
            timed("apply", LazySamples(logits, how).at, [0], 0)
            timed("push", grammar.push, [token])
        assert grammar.complete, "the whole text was followed"
    return {
        "tokens": len(ids),
        "build_ms": build_ms,
        "us": {
            name: {
                "median": statistics.median(values),
                "mean": statistics.fmean(values),
                "p99": float(np.quantile(values, 0.99)),
            }
            for name, values in times.items()
        },
    }


def show(found: list[dict[str, Any]]) -> None:
    """Print the medians, and of masks the 99th percentile."""
    for vocabulary in found:
        tokens = f"{vocabulary['tokens']} tokens, {vocabulary['logits']} logits"
        print(f"{tokens} ({vocabulary['name']}), read in {vocabulary['read_ms']:.0f} ms")
        print(
            f"{'µs, median':18}{'mask':>8}{'p99':>8}{'apply':>8}{'push':>8}{'usable':>8}{'copy':>8}  build ms"
        )
        for case, figures in vocabulary["grammars"].items():
            us = figures["us"]
            cells = [
                us["mask"]["median"],
                us["mask"]["p99"],
                *(us[n]["median"] for n in ("apply", "push", "usable", "copy")),
            ]
            print(f"{case:18}" + "".join(f"{cell:8.1f}" for cell in cells) + f"{figures['build_ms']:10.1f}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
