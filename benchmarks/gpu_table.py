"""What a run of `benchmarks.gpu` found, in words and figures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import gpu_reckoning as reckoning
from benchmarks.gpu_stages import STAGES

__all__ = ["table"]

Lines = Sequence[Mapping[str, Any]]


def table(lines: Lines) -> str:
    """Return the text for the lines of a run."""
    parts = (_stages, _failed, _fallen, _ceilings, _products, _steps, _blocks, _goals)
    return "\n\n".join(text for part in parts if (text := "\n".join(part(lines))))


def _stages(lines: Lines) -> Iterator[str]:
    yield f"{'stage':8}  lines  ended"
    for name in STAGES:
        own = [line for line in lines if line["stage"] == name]
        if own:
            ended = [line["ended"] for line in own if "ended" in line]
            yield f"{name:8}  {len(own):5}  {ended[-1] if ended else 'cut off'}"


def _ceilings(lines: Lines) -> Iterator[str]:
    for line in lines:
        if line["stage"] == "machine" and "copy_bytes" in line:
            yield (
                f"copy {line['copy_bytes'] / 1e12:.2f} TB/s, read {line['read_bytes'] / 1e12:.2f} TB/s, "
                f"bfloat16 product {line['bf16_flops'] / 1e12:.0f} TFLOP/s"
            )


def _products(lines: Lines) -> Iterator[str]:
    products = [line for line in lines if line["stage"] == "experts" and "up_share" in line]
    if products:
        yield "tokens  experts  best tile       weights     up µs  share   down µs  share"
    for case in dict.fromkeys((line["tokens"], line["experts"]) for line in products):
        own = [line for line in products if (line["tokens"], line["experts"]) == case]
        best = min(own, key=lambda line: float(line["up_us"] + line["down_us"]))
        yield (
            f"{case[0]:6}  {case[1]:7}  {best['tile']:14}  {best['weights']:7} {best['up_us']:8.1f} "
            f"{best['up_share']:6.0%} {best['down_us']:9.1f} {best['down_share']:6.0%}"
        )


def _steps(lines: Lines) -> Iterator[str]:
    rows = [line for line in lines if line["stage"] == "steps" and "times_floor" in line]
    if rows:
        yield "step      rows  experts       ms  floor ms  times"
    for row in rows:
        yield (
            f"{row['what']:8}  {row['batch']:4}  {row['distinct_experts']:7} {row['ms']:8.2f} "
            f"{row['floor_ms']:9.2f} {row['times_floor']:6.2f}"
        )
    for line in reckoning.nfe_in_ar_steps(rows):
        yield (
            f"an NFE of {line['batch']} rows that hits {line['distinct_experts']} experts takes "
            f"{line['measured']:.2f} AR steps, by the bytes {line['by_bytes']:.2f}"
        )


def _fallen(lines: Lines) -> Iterator[str]:
    """Notes of what was measured otherwise than asked for, each once."""
    notes = (note for line in lines for note in line.get("notes", ()))
    yield from dict.fromkeys(notes)


def _failed(lines: Lines) -> Iterator[str]:
    failed = [line["failed_test"] for line in lines if "failed_test" in line]
    if failed:
        yield f"{len(failed)} tests failed:"
        yield from failed[:40]


def _blocks(lines: Lines) -> Iterator[str]:
    for line in lines:
        if line["stage"] == "blocks" and line.get("what") == "block":
            yield (
                f"block, {line['batch']} rows, level {line['graph_level']}: {line['ms_per_block']:.2f} ms, "
                f"{line['launches']:.1f} launches"
            )


def _goals(lines: Lines) -> Iterator[str]:
    for goal in reckoning.goals(lines):
        if goal["met"] is None:
            yield f"{goal['goal']}: not measured"
        else:
            bound = f"≥ {goal['at_least']}" if "at_least" in goal else f"≤ {goal['at_most']}"
            verdict = "met" if goal["met"] else "missed"
            yield f"{goal['goal']} {bound}: {goal['measured']:.2f}, {verdict}"
