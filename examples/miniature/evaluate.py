"""Measure an exported miniature on held-out problems: `python -m examples.miniature.evaluate CHECKPOINT`.

The checkpoint goes through `ttc export` and is run by ONNX Runtime, not by the training code: AR, diffusion
over thresholds and over block sizes, all greedy, on the same problems. Prints a table in Markdown; --json
writes it with what made it.
"""

import argparse
import json
import platform
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

import ttc
from examples.miniature.checks import solved
from examples.miniature.data import TASKS
from ttc.bench.record_file import record_file, write_record

__all__ = ["Figures", "evaluate", "main"]

PROBLEMS = Path(__file__).parents[2] / "benchmarks" / "problems" / "miniature.jsonl"
STEPS = 16
MAX_NEW_TOKENS = 96
SETTINGS: dict[str, dict[str, Any]] = {
    "AR": {"mode": "ar"},
    **{
        f"γ {threshold}": {"threshold": threshold, "steps": STEPS}
        for threshold in (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
    },
    "one token per step": {"threshold": 1.0, "steps": STEPS},
    **{
        f"γ 0.9, block {size}": {"threshold": 0.9, "block_size": size, "steps": STEPS} for size in (8, 32, 64)
    },
}


@dataclass(frozen=True, slots=True)
class Figures:
    """One setting over all problems.

    Attributes:
        setting: its name.
        accuracy: task → share of problems solved.
        tokens: new ones up to and with eos.
        nfe: denoiser evaluations.
        tokens_per_nfe, steps_per_block: None in AR.
        unfinished: rows that met no eos in `MAX_NEW_TOKENS`.
    """

    setting: str
    accuracy: dict[str, float]
    tokens: int
    nfe: int
    tokens_per_nfe: float | None
    steps_per_block: float | None
    unfinished: int


def evaluate(engine: ttc.Engine, problems: Sequence[dict[str, str]], setting: str, batch: int) -> Figures:
    """Generate for every problem and check the answers."""
    right: dict[str, list[bool]] = {}
    tokens = nfe = blocks = unfinished = 0
    for start in range(0, len(problems), batch):
        part = problems[start : start + batch]
        prompts = [problem["prompt"] for problem in part]
        results = engine.generate(prompts, max_new_tokens=MAX_NEW_TOKENS, **SETTINGS[setting])
        assert isinstance(results, list), "a list of prompts gives a list"
        for problem, result in zip(part, results, strict=True):
            ended = result.finish_reason == "eos"
            assert result.text is not None, "the miniature has a tokenizer"
            answered = solved(problem["check"], problem["answer"], result.text, ended)
            right.setdefault(problem["task"], []).append(answered)
            tokens += len(result.token_ids)
            nfe += result.stats.nfe
            blocks += len(result.stats.nfe_per_block)
            unfinished += not ended
    return Figures(
        setting=setting,
        accuracy={task: sum(answers) / len(answers) for task, answers in right.items()},
        tokens=tokens,
        nfe=nfe,
        tokens_per_nfe=tokens / nfe if nfe else None,
        steps_per_block=nfe / blocks if nfe else None,
        unfinished=unfinished,
    )


def table(rows: Sequence[Figures]) -> Iterator[str]:
    """Lines of a Markdown table; with a column for the share of AR's word accuracy if AR is among them."""
    tasks = list(rows[0].accuracy)
    ar = next((row.accuracy["word"] for row in rows if row.setting == "AR"), 0.0)
    yield f"| setting | {' | '.join(tasks)} | word, of AR's | tokens/NFE | steps per block |"
    yield "|---" * (len(tasks) + 4) + "|"
    for row in rows:
        shares = " | ".join(f"{row.accuracy[task]:.1%}" for task in tasks)
        of_ar = f"{row.accuracy['word'] / ar:.1%}" if ar else "–"
        speed = f"{row.tokens_per_nfe:.2f} | {row.steps_per_block:.2f}" if row.nfe else "1 | –"
        yield f"| {row.setting} | {shares} | {of_ar} | {speed} |"


def main() -> None:
    """Parse the command line, export, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a checkpoint folder, or a bundle made of it")
    parser.add_argument("--problems", type=Path, default=PROBLEMS)
    parser.add_argument("--limit", type=int, help="only the first so many problems")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", type=record_file)
    given = parser.parse_args()
    lines = given.problems.read_text(encoding="utf-8").splitlines()[: given.limit]
    # Word first, and prompts of a length together, so that a batch wastes little.
    problems = sorted(map(json.loads, lines), key=lambda p: (list(TASKS).index(p["task"]), len(p["prompt"])))
    with tempfile.TemporaryDirectory() as folder:
        bundle = given.model
        if not (bundle / "bundle.json").exists():
            bundle = ttc.export(given.model, Path(folder) / "miniature.bundle")
        with ttc.load(bundle) as engine:
            rows = [
                evaluate(engine, problems, setting, given.batch)
                for setting in track(given.settings, console=Console(stderr=True))
            ]
    Console(soft_wrap=True).print("\n".join(table(rows)), markup=False, highlight=False)
    if given.json:
        report = {
            "command": shlex.join(["python", "-m", "examples.miniature.evaluate", *sys.argv[1:]]),
            "problems": {"sha256": sha256("\n".join(lines).encode()).hexdigest(), "count": len(problems)},
            "backend": "onnxruntime",
            "versions": {"ttc": ttc.__version__, "onnxruntime": version("onnxruntime")},
            "machine": platform.machine(),
            "rows": [asdict(row) for row in rows],
        }
        write_record(given.json, report)


if __name__ == "__main__":
    main()
