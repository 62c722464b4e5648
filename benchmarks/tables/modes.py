"""Tables of lossless mode, of rules to commit by, and of quantised experts."""

import math

from benchmarks.tables.words import Record, machine, markdown, or_nothing, percent

__all__ = ["commit_rules", "lossless_cpu", "lossless_positions", "quantised_quality", "sparse_experts"]

_LOSSLESS = {
    "ar": "`ar`",
    "diffusion 0.9": "`diffusion`, γ 0.9",
    "diffusion 0.8": "`diffusion`, γ 0.8",
    "lossless auto": "`lossless`, `auto`",
    "lossless 1": "`lossless`, 1 step",
    "lossless 2": "`lossless`, 2 steps",
    "lossless 4": "`lossless`, 4 steps",
    "prompt-lookup": "`prompt-lookup`",
}
_RULES = {
    "probability": "probability above γ (the model's)",
    "margin": "margin to the second above",
    "entropy": "entropy in nats below",
    "joint": "product of the committed above",
    "factor": "factor below",
    "by share": "γ by the share of masks: at none, at all",
}


def lossless_cpu(record: Record) -> str:
    """Return the candidates of `benchmarks/lossless.py` side by side."""
    rows = []
    for name, found in record["candidates"].items():
        low, high = found["interval_95"]
        rows.append(
            (
                _LOSSLESS[name],
                *(("1", "") if name == "ar" else _speed(found["tokens_per_second_over_ar"], low, high)),
                or_nothing(found.get("tokens_per_round")),
                or_nothing(found.get("steps_per_round")),
                f"{found['same_tokens_as_ar']} of {record['prompts']}",
                str(found["right_answers"]),
            )
        )
    head = (
        "",
        "throughput speedup over AR",
        "95 % interval",
        "mean acceptance length",
        "steps per round",
        "prompts as AR",
        f"right of {record['prompts_with_answer']}",
    )
    batches, sampled = (record["identity"][name] for name in ("batch 8", "sampled"))
    told = (
        f"On {machine(record)}. The same prompts in ragged batches of 8, and sampled (temperature 0.8, "
        f"top-p 0.95, a seed each): {batches['same_tokens']} and {sampled['same_tokens']} of "
        f"{sampled['prompts']} as AR."
    )
    return f"{markdown(head, rows)}\n{told}\n"


def lossless_positions(record: Record) -> str:
    """Return the acceptance rate of every second position."""
    rates = {
        steps: record["candidates"][f"lossless {steps}"]["acceptance_rate_per_position"]
        for steps in (1, 2, 4)
    }
    places = range(0, 15, 2)
    rows = [
        (f"{steps} step{'s' if steps > 1 else ''}", *(or_nothing(rate[place]) for place in places))
        for steps, rate in rates.items()
    ]
    return markdown(("position", *(str(place + 1) for place in places)), rows)


def commit_rules(record: Record) -> str:
    """Return what every rule gives at every bound."""
    rows = [
        (
            _RULES[row["rule"]],
            ", ".join(f"{bound:g}" for bound in row["bound"]),
            f"{row['right_of_750']:.0f}",
            f"{row['steps_per_block']:.2f}",
        )
        for row in record["rows"]
    ]
    return markdown(("commit while", "bound", "right of 750", "steps per block"), rows)


def quantised_quality(record: Record) -> str:
    """Return what every format of the experts does to the text, and to the time on this CPU."""
    rows = [
        (
            one["name"],
            f"{one['error']:.3f}",
            *(percent(one[key] / one["problems"]) for key in ("ar_right", "diffusion_right", "same_text")),
            f"{one['tokens_per_nfe']:.2f}",
            f"{one['confidence_difference']:.4f}",
            percent(one["crossings"]),
        )
        for one in record["variants"]
    ]
    head = (
        "experts",
        "error",
        "AR right",
        "diffusion right",
        "same text",
        "tokens/NFE",
        "Δ confidence",
        "crossings",
    )
    speed = ", ".join(
        f"{one['experts']} in {one['mode']} {one['median_of_ratios']:.2f}" for one in record["speed"]
    )
    (pairs,) = {one["pairs"] for one in record["speed"]}
    problems = record["variants"][0]["problems"]
    told = (
        f"{problems} held-out problems, threshold {record['threshold']:g}, on {machine(record)}. Time over "
        f"that of a plain bundle, medians of {pairs} pairs: {speed}."
    )
    return f"{markdown(head, rows)}\n{told}\n"


def sparse_experts(record: Record) -> str:
    """Return what computing only the chosen experts saves."""
    rows = [
        (
            str(row["experts"]),
            *(
                cell
                for step in ("ar_step_ms", "denoise_step_ms")
                for cell in (
                    f"{row[step]['all']:.2f}: {row[step]['chosen']:.2f} ms",
                    f"{row[step]['all'] / row[step]['chosen']:.2f}",
                )
            ),
        )
        for row in record["rows"]
    ]
    head = (
        "experts",
        "AR step, all: chosen",
        "times as fast",
        "denoise step, all: chosen",
        "times as fast",
    )
    worst = max(row["logits_differ"] for row in record["rows"])
    told = f"On {machine(record)}; logits differ by at most 1e{math.ceil(math.log10(worst))}."
    return f"{markdown(head, rows)}\n{told}\n"


def _speed(ratio: float, low: float, high: float) -> tuple[str, str]:
    return f"{ratio:.2f}", f"{low:.2f} to {high:.2f}"
