"""What quantising does to the miniature's text: right answers, sameness, steps and confidences, by format.

    python -m benchmarks.quantised_quality [--problems 200] [--rounds 5] [-o FILE.json]

The checkpoint's weights are encoded and decoded again, by the codec of `ttc quantize`, into a float32
checkpoint, and run on ONNX Runtime in float32, which is how a quantised bundle runs there. "bf16" are the
weights as they are. First the experts only, as `ttc quantize` does; then of one tower; then every linear
layer (Mamba, attention, shared and routed experts), which shows why it does not.

    AR, diffusion   right answers; greedy, threshold 0.9
    same text       of diffusion: problems whose tokens are those of bf16
    tokens/NFE      of diffusion
    |Δ confidence|  the denoiser's highest probability of each position of a block that is all mask, at the
                    start of every block of bf16's text, against bf16's; mean
    crossings       share of those positions that lie on the other side of the threshold

Then speed: a bundle of the quantised checkpoint that `ttc quantize` writes, decoded while it is loaded,
against one of the plain checkpoint, alternating prompt by prompt; medians.
"""

import argparse
import dataclasses
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import ttc
from ttc.bench.confidence import block_confidence, confidence_change
from ttc.bench.identity import load_average, machine, now
from ttc.bench.patterns import PatternSearch
from ttc.bench.problems import Problem, load_problems
from ttc.bench.quality import is_looping, is_right, wilson
from ttc.bench.record_file import record_file, write_record
from ttc.exporter.onnx.checkpoint import Checkpoint
from ttc.formats.quantised.codecs import decode, encode
from ttc.formats.quantised.measures import relative_error
from ttc.formats.shard import Shard
from ttc.formats.shard_layout import NewTensor, ShardLayout
from ttc.model.weights import CONTEXT, tower_of
from ttc.quantize.plan import Formats
from ttc.quantize.run import quantize

ROOT = Path(__file__).parents[1]
MINIATURE = ROOT / "ttc" / "miniature"
THRESHOLD, BLOCK, MAX_NEW_TOKENS = 0.9, 16, 96
EXPERTS = ("mixer.experts.",)
LINEARS = (
    *EXPERTS,
    "mixer.shared_experts.",
    "mixer.in_proj.",
    "mixer.out_proj.",
    "mixer.q_proj.",
    "mixer.k_proj.",
    "mixer.v_proj.",
    "mixer.o_proj.",
)


@dataclass(frozen=True)
class Variant:
    """Which matrices are quantised, and how. `tower`: of one only."""

    name: str
    format: str | None
    modules: tuple[str, ...] = EXPERTS
    tower: str | None = None
    four_over_six: bool = True

    def changes(self, tensor: str) -> bool:
        """Whether it quantises this tensor."""
        return (
            self.format is not None
            and tensor.endswith(".weight")
            and any(module in tensor for module in self.modules)
            and self.tower in (None, tower_of(tensor))
        )


VARIANTS = (
    Variant("bf16", None),
    Variant("int8", "int8"),
    Variant("fp8", "fp8"),
    Variant("nvfp4", "nvfp4"),
    Variant("nvfp4, plain scales", "nvfp4", four_over_six=False),
    Variant("int4", "int4"),
    Variant("nvfp4, denoiser only", "nvfp4", tower="denoiser_tower"),
    Variant("nvfp4, context tower only", "nvfp4", tower=CONTEXT),
    Variant("int8, all linears", "int8", LINEARS),
    Variant("nvfp4, all linears", "nvfp4", LINEARS),
)


@dataclass(frozen=True)
class Text:
    """What one variant wrote, and how sure the denoiser was."""

    ar: Sequence[ttc.Result]
    diffusion: Sequence[ttc.Result]
    confidences: npt.NDArray[np.float32]


def main() -> None:
    """Measure, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, default=MINIATURE)
    parser.add_argument("--tasks", type=Path, default=MINIATURE / "problems.jsonl")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5, help="of the speed comparison; 0 leaves it out")
    parser.add_argument(
        "-o", "--output", type=record_file, default=str(ROOT / "build" / "quantised_quality.json")
    )
    given = parser.parse_args()
    record: dict[str, Any] = {
        "command": "python -m benchmarks.quantised_quality " + shlex.join(sys.argv[1:]),
        "machine": dataclasses.asdict(machine()),
        "started": now(),
        "load": load_average(),
        "threshold": THRESHOLD,
    }
    problems = load_problems(given.tasks, given.problems)
    with tempfile.TemporaryDirectory() as scratch:
        for key, measure in (
            ("variants", lambda: qualities(given.checkpoint, problems, Path(scratch))),
            ("speed", lambda: speeds(given.checkpoint, problems[:20], given.rounds, Path(scratch))),
        ):
            record[key] = measure()
            write_record(given.output, record)
            print(f"{key} written to {given.output}", flush=True)


def qualities(checkpoint: Path, problems: Sequence[Problem], scratch: Path) -> list[dict[str, Any]]:
    """Return what each variant did, bf16 first; each is printed when it is known."""
    wide = scratch / "float32"
    tensors = write_float32(checkpoint, wide)
    bundle = ttc.export(wide, scratch / "bundle", dtype="float32", pack=False)
    print(
        "| experts | error | AR right | diffusion right | same text | tokens/NFE | Δ confidence | crossings |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    found: list[dict[str, Any]] = []
    reference: Text | None = None
    for variant in VARIANTS:
        folder = scratch / "variant"
        shutil.copytree(wide, folder)
        error = apply(variant, folder, tensors)
        with ttc.load(bundle, backend="onnxruntime", checkpoint=folder) as engine:
            text = write(engine, problems, reference)
        shutil.rmtree(folder)
        reference = reference or text
        found.append({"name": variant.name, "error": error, **judge(problems, text, reference)})
        print(row(found[-1]), flush=True)
    return found


def write_float32(checkpoint: Path, folder: Path) -> Mapping[str, npt.NDArray[np.float32]]:
    """Write the checkpoint in float32, in one file; its tensors."""
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        shutil.copy(checkpoint / name, folder / name)
    with Checkpoint.open(checkpoint) as source:
        tensors = {name: source.read(name).astype(np.float32) for name in source.tensors}
    layout = ShardLayout.of(NewTensor(name, "float32", array.shape) for name, array in tensors.items())
    with (folder / "model.safetensors").open("wb") as file:
        file.write(layout.header)
        for name, offset in layout.offsets.items():
            file.seek(offset)
            file.write(tensors[name].tobytes())
    return tensors


def apply(variant: Variant, folder: Path, tensors: Mapping[str, npt.NDArray[np.float32]]) -> float:
    """Put the decoded weights of a variant into the checkpoint in `folder`; their mean relative error."""
    path, errors = folder / "model.safetensors", []
    with Shard.open(path) as shard:
        begins = {name: shard.info(name).begin for name in tensors if variant.changes(name)}
    with path.open("r+b") as file:
        for name, begin in begins.items():
            assert variant.format is not None
            stored = encode(variant.format, tensors[name], four_over_six=variant.four_over_six)
            decoded = decode(variant.format, stored)
            file.seek(begin)
            file.write(decoded.tobytes())
            errors.append(relative_error(decoded, tensors[name]))
    return statistics.fmean(errors) if errors else 0.0


def write(engine: ttc.Engine, problems: Sequence[Problem], reference: Text | None) -> Text:
    """Answer all problems, and ask for confidences along the reference's text."""
    prompts = [problem.prompt for problem in problems]
    options: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS}
    ar = engine.generate(prompts, mode="ar", **options)
    diffusion = engine.generate(prompts, mode="diffusion", threshold=THRESHOLD, **options)
    assert isinstance(ar, list)
    assert isinstance(diffusion, list)
    followed = diffusion if reference is None else reference.diffusion
    assert engine.tokenizer is not None
    found = []
    for prompt, result in zip(prompts, followed, strict=True):
        ids = [*engine.tokenizer.encode(prompt).ids, *result.token_ids]
        start = len(ids) - len(result.token_ids)
        found += [block_confidence(engine, ids[:at], BLOCK) for at in range(start, len(ids), BLOCK)]
    return Text(ar, diffusion, np.concatenate(found))


def judge(problems: Sequence[Problem], text: Text, reference: Text) -> dict[str, Any]:
    """Return the numbers of one variant."""
    total = len(problems)
    found: dict[str, Any] = {}
    for mode, mine in (("ar", text.ar), ("diffusion", text.diffusion)):
        with PatternSearch() as search:
            right = sum(
                is_right(problem, result.text or "", search) and not is_looping(result.token_ids)
                for problem, result in zip(problems, mine, strict=True)
            )
        found[f"{mode}_right"] = right
        found[f"{mode}_interval"] = wilson(right, total)
    pairs = zip(text.diffusion, reference.diffusion, strict=True)
    difference, crossings = confidence_change(text.confidences, reference.confidences, THRESHOLD)
    nfe = sum(result.stats.nfe for result in text.diffusion)
    return found | {
        "problems": total,
        "same_text": sum(a.token_ids == b.token_ids for a, b in pairs),
        "tokens_per_nfe": sum(len(result.token_ids) for result in text.diffusion) / nfe,
        "positions": int(text.confidences.size),
        "confidence_difference": difference,
        "crossings": crossings,
    }


def row(found: Mapping[str, Any]) -> str:
    """Return one line of the table."""
    total = found["problems"]
    shares = (100 * found[key] / total for key in ("ar_right", "diffusion_right", "same_text"))
    return " | ".join(
        (
            f"| {found['name']}",
            f"{found['error']:.3f}",
            *(f"{share:.1f} %" for share in shares),
            f"{found['tokens_per_nfe']:.2f}",
            f"{found['confidence_difference']:.4f}",
            f"{100 * found['crossings']:.1f} % |",
        )
    )


def speeds(checkpoint: Path, problems: Sequence[Problem], rounds: int, scratch: Path) -> list[dict[str, Any]]:
    """Return the times of quantised bundles over the plain one's, by format and mode."""
    if not rounds:
        return []
    plain = ttc.export(checkpoint, scratch / "plain.bundle")
    found = []
    for word in ("int8", "nvfp4"):
        quantize(checkpoint, scratch / word, Formats(word, word))
        bundle = ttc.export(scratch / word, scratch / f"{word}.bundle")
        with ttc.load(plain) as first, ttc.load(bundle) as second:
            for mode in ("ar", "diffusion"):
                ratios, seconds = list[float](), (list[float](), list[float]())
                for _ in range(rounds):
                    for problem in problems:
                        for engine, times in zip((first, second), seconds, strict=True):
                            begin = time.perf_counter()
                            engine.generate(problem.prompt, mode=mode, max_new_tokens=48, stop_at_eos=False)
                            times.append(time.perf_counter() - begin)
                        ratios.append(seconds[1][-1] / seconds[0][-1])
                medians = [statistics.median(times) for times in seconds]
                found.append(
                    {
                        "experts": word,
                        "mode": mode,
                        "pairs": len(ratios),
                        "seconds": medians,
                        "ratio_of_medians": medians[1] / medians[0],
                        "median_of_ratios": statistics.median(ratios),
                    }
                )
                ratio = found[-1]["median_of_ratios"]
                print(f"{word}, {mode}: the quantised bundle takes {ratio:.3f} of the plain one's time")
    return found


if __name__ == "__main__":
    main()
