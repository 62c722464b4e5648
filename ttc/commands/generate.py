"""`ttc generate`: bundle and prompt → text."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ttc.base.files import check_writable
from ttc.base.names import BACKENDS, MODES, PROVIDERS, BackendName, ProviderName
from ttc.base.quoting import escaped
from ttc.commands.options import BundlePath, checkpoint_option, device_option, trust_option
from ttc.commands.prompts import as_text, as_token_ids, prompts_of, read_stdin, read_text
from ttc.commands.results import result_json, summary
from ttc.commands.terminal import loading, waiting, write_json
from ttc.demo.examples import EXAMPLES, example
from ttc.runtime.decoding.options import GenerationOptions, check_options

if TYPE_CHECKING:
    from ttc.runtime.decoding.result import Result
    from ttc.runtime.engine import Engine

__all__ = ["generate"]

_DEFAULTS = GenerationOptions()
_ONE_WAY = "give one of PROMPT, --example, --prompts and --interactive."


@click.command(short_help="Bundle and prompt → text.")
@click.argument("bundle", type=BundlePath())
@click.argument("prompt", required=False)
@click.option(
    "--example",
    type=click.Choice(list(EXAMPLES)),
    help="In place of PROMPT: one of the miniature's problems, which it was not trained on.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="In place of PROMPT: one a line, or JSON objects (.jsonl, - for stdin); prints JSON objects.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write those of --prompts there."
)
@click.option("-i", "--interactive", is_flag=True, help="In place of PROMPT: type them, one a line.")
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
    "--threads", type=int, metavar="N", help="CPU threads (onnxruntime).  [default: by the model's size]"
)
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
    "--provider",
    type=click.Choice(PROVIDERS),
    help="Execution provider of ONNX Runtime.  [default: cuda where there is a GPU]",
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
    prompt: str | None,
    example: str | None,
    prompts: Path | None,
    output: Path | None,
    interactive: bool,
    backend: BackendName,
    device: str | None,
    capacity: int | None,
    checkpoint: Path | None,
    engines: Path | None,
    trust: Path | None,
    threads: int | None,
    graph_level: int | None,
    sparse_experts: bool,
    provider: ProviderName | None,
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
    a line of statistics to standard error. BUNDLE "miniature" is the model that comes with ttc.
    """
    given_ways = [prompt is not None, example is not None, prompts is not None, interactive]
    if sum(given_ways) != 1:
        raise click.UsageError(_ONE_WAY)
    if (prompts is not None or interactive) and (show_steps or save_steps is not None):
        raise click.UsageError("--show-steps and --save-steps go with one prompt only.")
    if output is not None and prompts is None:
        raise click.UsageError("--output goes with --prompts only.")
    if output is not None:
        check_writable(output)
    many = None if prompts is None else prompts_of(prompts, ids)
    asked = _asked(prompt, example, ids)
    options = GenerationOptions(
        stop_at_eos=not no_stop_at_eos,
        draft_steps=_count_or_word(draft_steps),
        json_schema=None if json_schema is None else read_text(json_schema),
        one_of=one_of or None,
        **given,
    )

    import ttc
    from ttc.model.bundle import Bundle

    if save_steps is not None:
        from ttc.animation.save import check_format

        check_format(save_steps)

    with Bundle.open(
        bundle, checkpoint, trust
    ) as opened:  # before the weights are loaded, which may take long
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
                    threads=threads,
                    trust=trust,
                    graph_level=graph_level,
                    sparse_experts=sparse_experts,
                    provider=provider,
                    progress=progress,
                )
            )
        if many is not None or interactive:
            from ttc.commands.sessions import answer_file, converse

            if many is not None:
                answer_file(engine, many, options, output)
            else:
                converse(engine, options, ids)
            return
        if show_steps or save_steps is not None:
            with _steps(engine, asked, ids, options, show_steps, save_steps) as in_steps:
                _tell(in_steps, ids, as_json)  # before the picture is written, which may fail
            return
        with waiting("generating", quiet=as_json):
            result = engine.generate(asked, options)
    assert isinstance(result, ttc.Result), "one prompt, one result"
    _tell(result, ids, as_json)


def _asked(prompt: str | None, example_kind: str | None, ids: bool) -> str | list[int]:
    """Return the one prompt; empty where there are several."""
    if example_kind is not None:
        if ids:
            raise click.UsageError("--example is a text; leave out --token-ids.")
        return example(example_kind)
    if prompt is None:
        return ""
    text = read_stdin() if prompt == "-" else prompt
    return as_token_ids(text) if ids else as_text(text)


def _tell(result: "Result", ids: bool, as_json: bool) -> None:
    """Print what was generated."""
    if as_json:
        write_json(result_json(result))
        return
    text = result.text if result.text is not None and not ids else " ".join(map(str, result.token_ids))
    # A terminal would obey what a model writes; anything else gets it as it is.
    click.echo(escaped(text, kept="\n\t") if sys.stdout.isatty() else text)
    click.echo(summary(result), err=True)


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


def _count_or_word(text: str) -> int | str:
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text
