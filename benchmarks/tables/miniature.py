"""Tables of the miniature: first minutes, speed, quality, calls."""

from benchmarks.tables.words import Record, machine, markdown, or_nothing
from ttc.bench.headline import HEAD, notes, rows
from ttc.bench.schema import Report

__all__ = [
    "against_commit",
    "call_costs",
    "headline",
    "headline_busy",
    "miniature_batches",
    "miniature_bench",
    "miniature_cpu",
    "newcomer",
]

_NFE_COST = "cost of one NFE in AR steps, extension included"
_LOOP_SHARE = "loop outside the backend, share of a denoise step"


def newcomer(record: Record) -> str:
    """Return the steps of `benchmarks.newcomer`."""
    rows = [(step["what"], f"`{step['command']}`", f"{step['seconds']:.1f} s") for step in record["steps"]]
    told = (
        f"On {machine(record)}; {record['installed_mb']:.0f} MB are installed then, pip included "
        "([record](benchmarks/results/newcomer.json), `python -m benchmarks.newcomer`)."
    )
    return f"{markdown(('step', 'command', 'time'), rows)}\n{told}\n"


def miniature_cpu(record: Record) -> str:
    """Return the backends of `benchmarks/run.py` side by side."""
    rows = []
    for name, found in record["candidates"].items():
        backend, _, mode = name.rpartition(" ")
        nfe = found.get("nfe")
        rows.append(
            (
                mode,
                {"transformers": "transformers' NemotronH, same weights"}.get(backend, f"`{backend}`"),
                f"{found['tokens_per_second']:.0f}",
                "" if nfe is None else str(nfe),
                "" if nfe is None else f"{found['tokens_per_nfe']:.2f}",
            )
        )
    packages = record["machine"]["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("onnxruntime", "torch"))
    told = (
        f"On {machine(record)}; {record['prompts']} prompts of {record['max_new_tokens']} tokens each, "
        f"median of {record['repeats']} turns; {versions}, transformers {record['transformers']}. "
        "One denoiser evaluation, the extension of the context included, costs "
        f"{record['ratios'][_NFE_COST]:.1f} AR steps there; "
        f"{record['ratios'][_LOOP_SHARE]:.1%} of a denoise step is spent in the loop outside the backend."
    )
    return f"{markdown(('mode', 'backend', 'tokens/s', 'NFE', 'tokens/NFE'), rows)}\n{told}\n"


def miniature_bench(record: Record) -> str:
    """Return the cases of `ttc bench` side by side, with the right answers."""
    rows = []
    for case in record["cases"]:
        speed, answers = case["speed"][0], case["answers"]
        slow, fast = (speed["tokens"] / bound(speed["seconds_of_repeats"]) for bound in (max, min))
        words = answers["quality"]["by_task"]["word"]
        rows.append(
            (
                case["name"],
                f"{speed['tokens_per_second']:.0f}",
                f"{slow:.0f} to {fast:.0f}",
                f"{speed['over_ar']:.2f}",
                or_nothing(speed["tokens_per_nfe"]),
                or_nothing(speed["nfe_in_ar_steps"]),
                f"{answers['quality']['of_ar']:.1%}" + (", BROKEN" if answers["broken"] else ""),
                f"{words['correct'] / words['problems']:.1%}",
            )
        )
    base = next(case["speed"][0] for case in record["cases"] if case["mode"] == "diffusion")
    told = (
        f"{_conditions(record)}. The two factors of the wall clock: of the first case of diffusion "
        f"{base['tokens_per_nfe']:.2f} tokens for the price of {base['nfe_in_ar_steps']:.2f} AR steps, "
        f"which is {base['over_ar']:.2f}."
    )
    head = (
        "",
        "tokens/s",
        "min to max",
        "speedup",
        "tokens/NFE",
        "NFE cost ratio",
        "right, of AR",
        "stories right",
    )
    return f"{markdown(head, rows)}\n{told}\n"


def miniature_batches(record: Record) -> str:
    """Return throughput over batch sizes, of one case a mode."""
    cases = {case["mode"]: case for case in reversed(record["cases"])}
    modes = [mode for mode in ("ar", "diffusion", "lossless", "prompt-lookup") if mode in cases]
    rows = []
    for batch in record["work"]["batch_sizes"]:
        cells = [str(batch)]
        for mode in modes:
            speed = next(one for one in cases[mode]["speed"] if one["batch"] == batch)
            over = "" if mode == "ar" else f" ({speed['over_ar']:.2f})"
            cells.append(f"{speed['tokens_per_second']:.0f}{over}")
        rows.append(cells)
    names = [cases[mode]["name"] for mode in modes]
    return f"{markdown(('batch', *names), rows)}\n{_conditions(record)}.\n"


def headline(record: Record) -> str:
    """Return what `ttc bench --headline` tells."""
    report = Report.from_dict(record, "headline.json")
    where = f"{_where(report)} ([record](benchmarks/results/headline.json))."
    return f"{markdown(('mode', *HEAD[1:]), rows(report))}\n{' '.join(notes(report))} {where}\n"


def headline_busy(record: Record) -> str:
    """Return the same, of a run beside other work."""
    report = Report.from_dict(record, "headline_busy.json")
    first, *_ = notes(report)
    return f"{markdown(('mode', *HEAD[1:]), rows(report))}\n{first} {_where(report)}.\n"


def _where(report: Report) -> str:
    host, load = report.machine, report.conditions
    return (
        f"On {host.cores} cores of {host.cpu}, {load.started[:10]}, load {load.load_at_start:.1f} at "
        f"the start and {load.load_at_end:.1f} at the end"
    )


def against_commit(record: Record) -> str:
    """Return how fast this tree is beside an earlier commit."""
    rows = [
        (
            row["mode"],
            str(row["rows"]),
            *(f"{row[side]['tokens_per_second']:.0f}" for side in ("then", "now")),
            f"{row['wall_ratio']:.2f}",
            "yes" if row["same_tokens"] else "NO",
        )
        for row in record["rows"]
    ]
    told = f"Tokens/s, medians of {len(record['rows'][0]['now']['turns'])} turns. On {machine(record)}."
    return f"{markdown(('mode', 'rows', 'then', 'now', 'speedup', 'same tokens'), rows)}\n{told}\n"


def call_costs(record: Record) -> str:
    """Return what calls cost over context and rows, and what the cost model says."""
    kinds = list(record["cases"][0]["ms"])
    rows = [
        (
            *(str(case[key]) for key in ("rows", "context", "capacity")),
            *(f"{case[figure][kind]:.2f}" for kind in kinds for figure in ("ms", "predicted_ms")),
        )
        for case in record["cases"]
    ]
    head = ("rows", "context", "capacity", *(word for kind in kinds for word in (f"{kind}, ms", "predicted")))
    told = f"On {machine(record)}. The first line is what the prediction starts from."
    return f"{markdown(head, rows)}\n{told}\n"


def _conditions(record: Record) -> str:
    """Return what the figures of `ttc bench` hold for."""
    host, work, conditions = record["machine"], record["work"], record["conditions"]
    loads = (
        f"load {conditions['load_at_start']:.1f} at the start and {conditions['load_at_end']:.1f} at the end"
    )
    return (
        f"On {host['cores']} cores of {host['cpu']}, {loads}, the run itself included; medians over "
        f"{work['repeats']} turns of {work['timed_prompts']} prompts; {work['problems']} problems"
    )
