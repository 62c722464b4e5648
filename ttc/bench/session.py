"""A bench from a bundle to a report: `run_bench` is the whole of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ttc.base.names import BackendName
from ttc.base.quoting import quoted
from ttc.bench.cases import BENCH_MODES, make_cases
from ttc.bench.confidence import first_blocks
from ttc.bench.identity import load_average, machine, now, weights_digest
from ttc.bench.problems import Problem, load_problems, prompts_digest, random_prompts
from ttc.bench.run import Plan, run_cases
from ttc.bench.schema import Conditions, Model, Report
from ttc.errors import InputError
from ttc.formats.tokenizer import encoded
from ttc.model.bundle import Bundle
from ttc.runtime.decoding.result import Result
from ttc.runtime.load import load as load_engine
from ttc.runtime.text import load_tokenizer

__all__ = ["Settings", "run_bench"]

# Without a task: how many prompts, of how many tokens.
_RANDOM_PROMPTS, _RANDOM_TOKENS, _MOST_PROMPTS = 16, 64, 100_000
_TIMED = 24


@dataclass(frozen=True, slots=True)
class Settings:
    """What `ttc bench` was asked; None takes what the command's help calls the default."""

    tasks: Path | None = None
    limit: int | None = None
    modes: tuple[str, ...] | None = None
    threshold: tuple[float, ...] = (0.9,)
    steps: tuple[int, ...] | None = None
    block_size: tuple[int, ...] = (16,)
    grid: bool = False
    draft_steps: int | None = None
    batch: tuple[int, ...] = (1,)
    repeats: int = 3
    timed_prompts: int | None = None
    max_new_tokens: int = 96
    temperature: float = 0.0
    seed: int = 0
    backend: BackendName = "onnxruntime"
    device: str | None = None
    engines: Path | None = None
    checkpoint: Path | None = None
    trust: Path | None = None


def run_bench(bundle: Path, settings: Settings, say: Callable[[str], None] = lambda line: None) -> Report:
    """Measure the model in `bundle`. What the user can get wrong is refused before the weights are loaded."""
    started, load = now(), load_average()
    cases = make_cases(
        settings.modes or BENCH_MODES,
        settings.threshold,
        settings.steps,
        settings.block_size,
        settings.grid,
        settings.draft_steps,
    )
    problems = None if settings.tasks is None else load_problems(settings.tasks, settings.limit)
    with Bundle.open(bundle, settings.checkpoint, settings.trust) as opened:
        config, dtype, weights = opened.config, opened.compute_dtype, weights_digest(opened)
        prompts = _prompts(opened, settings, problems)
    plan = Plan(
        cases=cases,
        prompts=prompts,
        problems=problems,
        timed_prompts=min(_TIMED, len(prompts)) if settings.timed_prompts is None else settings.timed_prompts,
        batch_sizes=settings.batch,
        repeats=settings.repeats,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=settings.seed,
    )
    with load_engine(
        bundle,
        settings.backend,
        settings.device,
        engines=settings.engines,
        checkpoint=settings.checkpoint,
        trust=settings.trust,
    ) as engine:
        records = run_cases(engine, plan, say)
        confidences = first_blocks(engine, prompts)
        first = engine.generate(prompts[0], max_new_tokens=1)
        assert isinstance(first, Result), "one prompt, one result"
        device, threads = engine.device, engine.threads
    return Report(
        machine(),
        Conditions(started, load, load_average()),
        Model(
            bundle=bundle.resolve().name,
            weights_sha256=weights,
            compute_dtype=dtype,
            pattern=config.pattern,
            hidden_size=config.hidden_size,
            backend=settings.backend,
            device=device,
            threads=threads,
            notes=first.stats.notes,
        ),
        plan.work(None if settings.tasks is None else settings.tasks.name, prompts_digest(prompts, problems)),
        records,
        confidences,
    )


def _prompts(
    bundle: Bundle, settings: Settings, problems: tuple[Problem, ...] | None
) -> tuple[tuple[int, ...], ...]:
    if problems is None:
        count = settings.limit or max(_RANDOM_PROMPTS, *settings.batch)
        if count > _MOST_PROMPTS:
            raise InputError(f"{quoted(count)} random prompts; valid: up to {_MOST_PROMPTS}")
        return random_prompts(bundle.config, count, _RANDOM_TOKENS, settings.seed)
    tokenizer = load_tokenizer(bundle)
    if tokenizer is None:
        raise InputError("the bundle has no tokenizer.json, so no task can be asked; leave out --tasks")
    return tuple(tuple(encoded(tokenizer, problem.prompt)) for problem in problems)
