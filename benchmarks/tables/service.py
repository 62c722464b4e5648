"""Tables of the core, of the service, and of what the plans foretell of them."""

from benchmarks.tables.words import Record, machine, markdown, percent

__all__ = ["core_cpu", "plan_check", "serve_plan_check", "serving"]


def core_cpu(record: Record) -> str:
    """Return what `benchmarks.core` found."""
    requests, batch, joined, prefix = (record[key] for key in ("requests", "static_batch", "join", "prefix"))
    shares = [
        (
            f"share of a tick outside the backend, {one['rows']} row{'s' if one['rows'] > 1 else ''}",
            f"{percent(one['share'])} ({one['outside_backend_ms']:.2f} ms)",
        )
        for one in record["overhead"]
    ]
    rows = [
        (
            f"{requests['requests']} requests of all modes that come at random, against each alone",
            (
                f"{requests['with_other_tokens']} with other tokens; {requests['with_other_nfe']} of "
                f"{requests['diffusion_requests']} diffusion requests with another NFE; "
                f"{requests['speedup_over_alone']:.2f} × as fast"
            ),
        ),
        (
            f"a batch of {batch['rows']} uneven rows",
            (
                f"{batch['denoiser_rows']} denoiser rows evaluated; "
                f"{batch['in_lockstep']} if every row waited for the slowest"
            ),
        ),
        *shares,
        (
            f"{joined['rows']} rows of capacity {joined['capacity']} that join",
            f"median {joined['median_ms']:.3f} ms, at most {joined['most_ms']:.2f} ms; "
            + ("no other row is copied" if not joined["rows_copied"] else f"{joined['rows_copied']} COPIED"),
        ),
        (
            f"{prefix['shared_tokens']} shared tokens of a prompt, from the prefix cache",
            f"{prefix['hit_over_miss']:.2f} of the time to the first block; "
            + ("same tokens" if all(prefix["same_tokens"]) else "OTHER TOKENS"),
        ),
        (
            f"resident memory, from request 1000 to {record['memory']['requests']:,}",
            f"grows by {record['memory']['growth_mb']:.1f} MB",
        ),
    ]
    return f"{markdown(('', ''), rows)}\nOn {machine(record)}.\n"


def serving(record: Record) -> str:
    """Return what `benchmarks.serving` found, beside the goals; what misses its goal says so."""
    identity, latency, silent = record["identity"], record["latency"], record["connections"]
    overload, hostile, prefix = record["overload"], record["hostile"], record["prefix"]
    inside, outside = (record["throughput"][f"{way}_over_static"] for way in ("in_process", "http"))
    first, slows = latency["first_block_over_end"], latency["long_prompt_slows_blocks_by"]
    other = identity["texts_with_other_tokens"], identity["diffusion_requests_with_other_nfe"]
    growth, goodput = record["memory"]["growth_mb"], overload["goodput_over_capacity"]["median"]
    late, second = overload["refused_p99_ms"], prefix["second_over_first"]["median"]
    fair = record["fair"]["beside_over_alone"]
    retry = overload["without_retry_after"]
    rows = [
        (
            (
                f"{identity['requests']} random requests ({identity['texts']} texts) at "
                f"{identity['clients']} clients, against each alone"
            ),
            f"{other[0]} with other tokens, {other[1]} with another NFE",
            _goal("0", not any(other)),
        ),
        (
            "tokens/s over those of static batches of 16, in process",
            f"median {inside['median']:.2f}, best {inside['best']:.2f}",
            _goal("median 0.95", inside["median"] >= 0.95),
        ),
        (
            "the same over HTTP",
            f"median {outside['median']:.2f}, best {outside['best']:.2f}",
            _goal("median 0.80, best 0.95", outside["median"] >= 0.80 and outside["best"] >= 0.95),
        ),
        ("first block p95 over answer p95, 16 clients", f"{first:.2f}", _goal("0.6", first <= 0.6)),
        (
            "what a prompt of 2000 tokens does to others' p95 between blocks",
            f"{slows:.2f} ×",
            _goal("2 ×", slows <= 2),
        ),
        (
            f"{hostile['behaviours']:,} hostile behaviours",
            f"{hostile['hung']} hung, {hostile['rows_left_after_100_ms']:.0f} rows left after 100 ms",
            _goal("0, 0", not hostile["hung"] and not hostile["rows_left_after_100_ms"]),
        ),
        (
            f"{silent['connections']:,} silent connections beside 20 requests",
            (
                f"{silent['answered_beside_them']} answered, median {silent['median_ms']['beside']:.1f} ms "
                f"(alone {silent['median_ms']['alone']:.1f})"
            ),
            "",
        ),
        (
            f"resident memory, from request 1000 to {record['memory']['requests']:,}",
            f"grows by {growth:.1f} MB",
            _goal("15 MB", growth <= 15),
        ),
        (
            "64 clients on a queue of 16: answers over capacity",
            f"median {goodput:.2f}",
            _goal("0.9", goodput >= 0.9),
        ),
        (
            "the same: 99 % of refusals within",
            f"{late:.0f} ms, {f'{retry} WITHOUT' if retry else 'all with'} Retry-After",
            _goal("50 ms", late <= 50 and not retry),
        ),
        (
            "second prompt with the same first 1024 tokens",
            f"{second:.3f} of the first, {'same' if prefix['same_tokens'] else 'OTHER'} tokens",
            _goal("0.15", second <= 0.15 and prefix["same_tokens"]),
        ),
        (
            "short requests of one key beside 100 long ones of another, p95",
            f"{fair:.1f} × alone",
            _goal("3 ×", fair <= 3),
        ),
    ]
    return f"{markdown(('', 'measured', 'goal'), rows)}\nOn {machine(record)}.\n"


def serve_plan_check(record: Record) -> str:
    """Return simulated over measured, mode by mode."""
    names = {"ar": "AR"}
    rows = []
    for mode, found in record["modes"].items():
        ratio = found["simulated_over_measured"]
        rows.append(
            (
                names.get(mode, mode),
                f"{ratio['tokens_per_second']:.2f}",
                *(f"{ratio[f'{what}_p50']:.2f}, {ratio[f'{what}_p95']:.2f}" for what in ("first", "whole")),
                f"{ratio['rows_mean']:.2f}",
                f"{ratio['tokens_per_nfe']:.2f}" if ratio.get("tokens_per_nfe") else "",
            )
        )
    head = (
        "mode",
        "tokens/s",
        "time to the first block, p50 and p95",
        "whole answer, p50 and p95",
        "rows in use",
        "tokens/NFE",
    )
    told = f"On {machine(record)}, {record['load_at_end']:.1f} at the end; clock of the computing thread."
    return f"{markdown(head, rows)}\n{told}\n"


def plan_check(record: Record) -> str:
    """Return predicted and measured times of a call."""
    kinds = ("AR step", "denoise step", "extension")
    rows = [
        (
            str(row["batch"]),
            *(f"{row['predicted_ms'][kind]:.1f}, measured {row['measured_ms'][kind]:.1f}" for kind in kinds),
            f"{row['nfe_in_ar_steps']['predicted']:.2f}, measured {row['nfe_in_ar_steps']['measured']:.2f}",
        )
        for row in record["rows"]
    ]
    head = ("batch", *(f"{kind}, ms" for kind in kinds), "NFE cost ratio (an NFE in AR steps)")
    limits = record["limits"]
    told = (
        f"On {machine(record)}; clock of the computing thread; {limits['bytes_per_second'] / 1e9:.1f} GB/s, "
        f"{limits['flops_per_second'] / 1e9:.0f} GFLOP/s, packing "
        f"{limits['packing_bytes_per_second'] / 1e9:.1f} GB/s."
    )
    return f"{markdown(head, rows)}\n{told}\n"


def _goal(goal: str, met: bool) -> str:
    return goal if met else f"{goal}: **missed**"
