"""`ttc generate`: bundle and prompt → text."""

import contextlib
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ttc.base.names import BACKENDS, MODES, BackendName
from ttc.base.quoting import escaped
from ttc.commands.options import checkpoint_option, device_option, trust_option
from ttc.commands.terminal import loading, waiting, write_json
from ttc.errors import InputError
from ttc.runtime.decoding.options import GenerationOptions, check_options

if TYPE_CHECKING:
    from ttc.runtime.decoding.draft_stats import LosslessStats
    from ttc.runtime.decoding.result import Result
    from ttc.runtime.engine import Engine

__all__ = ["generate", "result_json"]

_DEFAULTS = GenerationOptions()
# Of a file with a schema; more than may be given.
_MOST_READ = 1 << 20


@click.command(short_help="Bundle and prompt → text.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("prompt")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default=_DEFAULTS.mode,
    show_default=True,
    help="lossless: the text of ar, drafted by the denoiser; prompt-lookup: drafted from the text.",
)
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="onnxruntime",
    show_default=True,
    help="tensorrt, tensorrt-rtx: engines that `ttc build` made, on a GPU.",
)
@device_option
@click.option("--max-new-tokens", type=int, default=_DEFAULTS.max_new_tokens, show_default=True, metavar="N")
@click.option(
    "--block-size",
    type=int,
    default=_DEFAULTS.block_size,
    show_default=True,
    metavar="N",
    help="Tokens of a block.",
)
@click.option(
    "--steps",
    type=int,
    default=_DEFAULTS.steps,
    show_default=True,
    metavar="N",
    help="Most denoise steps of a block.",
)
@click.option(
    "--threshold",
    type=float,
    default=_DEFAULTS.threshold,
    show_default=True,
    metavar="γ",
    help="A step keeps every prediction more probable than this (0 to 1).",
)
@click.option(
    "--draft-steps",
    default=_DEFAULTS.draft_steps,
    show_default=True,
    metavar="N|auto",
    help="Most denoise steps of a draft (lossless).",
)
@click.option(
    "--temperature",
    type=float,
    default=_DEFAULTS.temperature,
    show_default=True,
    metavar="X",
    help="0 is greedy.",
)
@click.option("--top-k", type=int, metavar="N", help="Sample from the N most probable (not in diffusion).")
@click.option("--top-p", type=float, metavar="P", help="Sample from the most probable P (not in diffusion).")
@click.option(
    "--json-schema",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write JSON that fits the schema in FILE (ar, lossless, prompt-lookup; so the next two).",
)
@click.option("--regex", metavar="R", help="Write a text that matches R as a whole.")
@click.option("--choice", "one_of", multiple=True, metavar="TEXT", help="Write one of these texts; repeat.")
@click.option("--seed", type=int, metavar="S", help="Makes sampling repeatable.  [default: a new one]")
@click.option(
    "--capacity", type=int, metavar="C", help="Tokens that fit, with the prompt.  [default: as needed]"
)
@checkpoint_option
@click.option(
    "--engines",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where `ttc build` put the engines.  [default: BUNDLE/engines]",
)
@trust_option
@click.option(
    "--graph-level",
    type=click.IntRange(0, 2),
    help="CUDA graphs: 0 none, 1 one per step, 2 one per block.  [default: the most there is]",
)
@click.option(
    "--sparse-experts",
    is_flag=True,
    help="Compute an expert for the tokens that chose it alone (onnxruntime on the CPU).",
)
@click.option(
    "--token-ids", "--ids", "ids", is_flag=True, help="PROMPT is token ids with blanks between; print ids."
)
@click.option("--no-stop-at-eos", is_flag=True, help="Go on after eos.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: tokens, text, statistics.")
@click.option("--show-steps", is_flag=True, help="Watch the blocks fill (on standard error).")
@click.option(
    "--save-steps",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the blocks filling as a picture that moves: .svg, .html or .gif.",
)
def generate(
    bundle: Path,
    prompt: str,
    backend: BackendName,
    device: str | None,
    capacity: int | None,
    checkpoint: Path | None,
    engines: Path | None,
    trust: Path | None,
    graph_level: int | None,
    sparse_experts: bool,
    ids: bool,
    no_stop_at_eos: bool,
    draft_steps: str,
    json_schema: Path | None,
    one_of: tuple[str, ...],
    as_json: bool,
    show_steps: bool,
    save_steps: Path | None,
    **given: Any,
) -> None:
    """Generate text after PROMPT with the model in BUNDLE.

    PROMPT "-" is read from standard input, less one line end. The text goes to standard output,
    a line of statistics to standard error.
    """
    if prompt == "-":
        prompt = _read_stdin()
    asked = _ids(prompt) if ids else _text(prompt)
    options = GenerationOptions(
        stop_at_eos=not no_stop_at_eos,
        draft_steps=_count_or_word(draft_steps),
        json_schema=None if json_schema is None else _read_text(json_schema),
        one_of=one_of or None,
        **given,
    )

    import ttc
    from ttc.model.bundle import Bundle

    if save_steps is not None:
        from ttc.animation.save import check_format

        check_format(save_steps)

    with Bundle.open(bundle, checkpoint) as opened:  # before the weights are loaded, which may take long
        check_options(options, opened.config)
    with contextlib.ExitStack() as open_until_the_end:
        with loading("loading the bundle", quiet=as_json) as progress:
            engine = open_until_the_end.enter_context(
                ttc.load(
                    bundle,
                    backend,
                    device,
                    capacity,
                    engines,
                    checkpoint=checkpoint,
                    trust=trust,
                    graph_level=graph_level,
                    sparse_experts=sparse_experts,
                    progress=progress,
                )
            )
        if show_steps or save_steps is not None:
            with _steps(engine, asked, ids, options, show_steps, save_steps) as in_steps:
                _tell(in_steps, ids, as_json)  # before the picture is written, which may fail
            return
        with waiting("generating", quiet=as_json):
            result = engine.generate(asked, options)
    assert isinstance(result, ttc.Result), "one prompt, one result"
    _tell(result, ids, as_json)


def _tell(result: "Result", ids: bool, as_json: bool) -> None:
    """Print what was generated."""
    if as_json:
        write_json(result_json(result))
        return
    text = result.text if result.text is not None and not ids else " ".join(map(str, result.token_ids))
    # A terminal would obey what a model writes; anything else gets it as it is.
    click.echo(escaped(text, kept="\n\t") if sys.stdout.isatty() else text)
    click.echo(_summary(result), err=True)


def result_json(result: "Result") -> dict[str, Any]:
    """Return a result as the one flat object of `--json`."""
    stats = result.stats
    return {
        "token_ids": list(result.token_ids),
        "text": result.text,
        "finish_reason": result.finish_reason,
        "prompt_tokens": stats.prompt_tokens,
        "nfe": stats.nfe,
        "nfe_per_block": list(stats.nfe_per_block),
        "tokens_per_nfe": stats.tokens_per_nfe,
        "context_calls": stats.context_calls,
        "seconds": stats.seconds,
        "tokens_per_second": stats.tokens_per_second,
        "backend_seconds": stats.backend_seconds,
        "graph_level": stats.graph_level,
        "backend": stats.backend,
        "mode": stats.mode,
        "seed": stats.seed,
        "lossless": None if stats.lossless is None else _lossless_json(stats.lossless),
        "notes": list(stats.notes),
    }


def _lossless_json(stats: "LosslessStats") -> dict[str, Any]:
    """Return the statistics under the keys that stored records have."""
    stored = {
        "draft_records": "rounds",
        "mean_acceptance_length": "tokens_per_round",
        "acceptance_rate_per_position": "acceptance_by_place",
    }
    return {stored.get(name, name): value for name, value in dataclasses.asdict(stats).items()}


@contextlib.contextmanager
def _steps(
    engine: "Engine",
    prompt: str | list[int],
    ids: bool,
    options: GenerationOptions,
    show: bool,
    save: Path | None,
) -> Iterator["Result"]:
    """Yield what was generated, watched as `show` says; the picture `save` is written on leaving."""
    from ttc.animation.live import StepView
    from ttc.commands.steps import play, recording

    shown = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
    tokenizer = None if ids else engine.tokenizer
    view = StepView(options.mode, shown, tokenizer) if show else None
    with recording(save, options.mode, shown, tokenizer) as record:
        yield play(record(engine.stream(prompt, options)), view)


def _summary(result: "Result") -> str:
    stats, tokens = result.stats, len(result.token_ids)
    parts = [f"{tokens} tokens in {stats.seconds:.2f} s"]
    if tokens:
        parts[0] += f" ({stats.tokens_per_second:.1f} tokens/s)"
    if stats.nfe:
        parts.append(f"{stats.nfe} NFE, {stats.tokens_per_nfe:.2f} tokens/NFE")
    if stats.lossless and stats.lossless.draft_records:
        rounds, each = len(stats.lossless.draft_records), stats.lossless.mean_acceptance_length
        parts.append(f"{rounds} rounds, {each:.2f} tokens/round")
    parts.append(f"{stats.context_calls} context calls")
    ends = {"eos": "ended by eos", "stop": "ended where its grammar ends"}
    parts.append(ends.get(result.finish_reason, "ended by length"))
    return "; ".join(parts)


def _count_or_word(text: str) -> int | str:
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def _read_stdin() -> str:
    raw = sys.stdin.buffer.read()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise InputError(f"standard input is not UTF-8 text (byte {fault.start}); convert it first") from None
    # Shells and editors end a text with a line end that the prompt does not mean.
    return text.removesuffix("\n").removesuffix("\r")


def _read_text(path: Path) -> str:
    """Read a small file; what it holds is checked with the options."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_READ).decode("utf-8")
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror or fault})") from None
    except UnicodeDecodeError as fault:
        raise InputError(f"{path} is not UTF-8 text (byte {fault.start}); convert it first") from None


def _text(prompt: str) -> str:
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as fault:
        where = f"character {fault.start}"
        raise InputError(f"the prompt is not UTF-8 text ({where}); convert it first") from None
    return prompt


def _ids(prompt: str) -> list[int]:
    words = prompt.split()
    for i, word in enumerate(words):
        if not re.fullmatch(r"-?[0-9]{1,18}", word):
            raise InputError(
                f"--token-ids: word {i} of the prompt is {word[:40]!r}; valid: token ids with blanks between"
            )
    return [int(word) for word in words]
