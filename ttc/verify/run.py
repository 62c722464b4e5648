"""`verify`: from a bundle to a verdict."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from ttc import __version__
from ttc.base.names import BACKENDS
from ttc.errors import BackendError, BundleError, DigestError, InputError
from ttc.formats.engines import MANIFEST_FILE as ENGINES_FILE
from ttc.formats.manifest import MANIFEST_FILE
from ttc.formats.tokenizer import encoded
from ttc.formats.verification import (
    RECORD_FILE,
    BackendRecord,
    Verification,
    file_digest,
    runs_digest,
    runs_from,
)
from ttc.model.bundle import Bundle
from ttc.runtime.decoding.limits import fitting_capacity
from ttc.runtime.decoding.result import Result
from ttc.runtime.engine import Engine
from ttc.runtime.interface.backend import Limits
from ttc.runtime.interface.sizes import CPU_SIZES
from ttc.runtime.prompts import Prompt, read_ids, split_prompts
from ttc.runtime.text import load_tokenizer
from ttc.verify.backends import Candidate, open_candidate, open_reference
from ttc.verify.compare import Noise, compare, first_fault, noise_of
from ttc.verify.generation import (
    MODE_OPTIONS,
    built_in_prompts,
    check_generation,
    generate_all,
    reference_modes,
)
from ttc.verify.native import check_native
from ttc.verify.observe import Observation, observe
from ttc.verify.preflight import check_backends, check_memory, check_names
from ttc.verify.report import BackendReport, Comparison, Report, WeightsCheck
from ttc.verify.scenario import Scenario, Shapes, make_scenario
from ttc.verify.tolerances import tolerances_of
from ttc.verify.weights import check_weights

__all__ = ["verify"]

logger = logging.getLogger(__name__)

Say = Callable[[str], None]


def verify(
    bundle: str | os.PathLike[str],
    backends: Sequence[str] | None = None,
    *,
    device: str | None = None,
    engines: str | os.PathLike[str] | None = None,
    trust: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    prompts: Prompt | None = None,
    max_new_tokens: int = 32,
    layers: bool = False,
    weights: bool = False,
    against_transformers: bool = False,
    record: bool = True,
    progress: Say | None = None,
) -> Report:
    """Hold backends against the reference, tower by tower and token by token.

    The reference is the towers in plain torch on the CPU: in float32, and for a bundle of another compute
    dtype in that one too.

    Args:
        bundle: the folder that `ttc export` wrote.
        backends: names; None takes every one that can run here.
        device, engines, trust: as in `ttc.load`. What an old record says of other backends is kept where
            `trust` is None, or its key signed that record.
        checkpoint: where the checkpoint lies now (a bundle by reference); of a packed bundle, the checkpoint
            that `weights` compares it with.
        prompts: what to generate after; None: built-in token ids.
        max_new_tokens: of each prompt.
        layers: compare every layer's residual stream. Where something is wrong this is done anyway, to find
            the layer.
        weights: read the content of every weight (`ttc.verify.weights`).
        against_transformers: also compare the context tower with transformers' own NemotronH.
        record: keep the verdict beside the bundle (`ttc.formats.verification`).
        progress: called with a line of text before each piece of work.

    Raises:
        InputError, BundleError: nothing to verify, or more than this machine's memory holds in float32.
        BackendError: a backend that was asked for cannot run here, or torch is missing.
        What `ttc.verify.preflight` finds is raised before anything is computed.
    """
    say = progress or (lambda line: None)
    check_names(backends)
    packed = Bundle.open(bundle, None, trust).weights_mode == "packed" if checkpoint is not None else False
    with Bundle.open(bundle, None if packed else checkpoint, trust) as opened:
        check_backends(backends, opened, device, engines, trust)
        check_memory(opened)
        contents = check_weights(opened, checkpoint, say) if weights else None
        sides = _References(opened, prompts, max_new_tokens, say)
        reports, skipped, runs = [], {}, {}
        for name in backends or BACKENDS:
            try:
                digest = runs_digest(opened, name, engines)
                reports.append(
                    _verify_backend(name, opened, device, engines, trust, digest, sides, layers, say)
                )
                runs[name] = digest
            except (BackendError, BundleError, InputError) as fault:  # no device, no engines, another device
                if backends is not None or isinstance(fault, DigestError):
                    raise
                skipped[name] = str(fault)
        native = check_native(opened, sides.engine, say) if against_transformers else None
        config = opened.config
        recorded, stale = _keep(opened, engines, trust, reports, runs, contents) if record else ((), ())
        return Report(
            str(opened.path),
            config.pattern,
            opened.compute_dtype,
            tuple(reports),
            skipped,
            contents,
            native,
            recorded,
            stale,
        )


class _References:
    """What the reference computed, once for all backends: by dtype its observations, and its text."""

    def __init__(self, bundle: Bundle, prompts: Prompt | None, max_new_tokens: int, say: Say) -> None:
        self.max_new_tokens = max_new_tokens
        tokenizer = load_tokenizer(bundle)
        asked = built_in_prompts(bundle.config) if prompts is None else prompts
        encode = None if tokenizer is None else lambda text: encoded(tokenizer, text)
        self.prompts = [read_ids(row, bundle.config, encode) for row in split_prompts(asked)[0]]
        self._sides = {}
        for dtype in dict.fromkeys(("float32", bundle.compute_dtype)):
            say(f"reference in {dtype}")
            self._sides[dtype] = open_reference(bundle, dtype)
        self.engine = Engine(self._sides["float32"].backend)
        say("reference, tokens")
        self.results: dict[str, list[Result]] = generate_all(
            self.engine, self.prompts, max_new_tokens, reference_modes()
        )
        self._config, self._compute_dtype = bundle.config, bundle.compute_dtype
        self._observed: dict[tuple[Shapes, int], _Observed] = {}

    def observed(self, limits: Limits | None) -> "_Observed":
        """Return what the references computed in calls that a backend with these limits can run too."""
        shapes = Shapes.within(limits)
        scenario = make_scenario(self._config, shapes)
        tokens = scenario.tokens
        capacity = fitting_capacity(limits, tokens, CPU_SIZES.bucket(tokens))
        if (shapes, capacity) not in self._observed:
            by_dtype = {d: list(observe(side, scenario, capacity)) for d, side in self._sides.items()}
            pairs = zip(by_dtype[self._compute_dtype], by_dtype["float32"], strict=True)
            noise = [noise_of(a, b) for a, b in pairs]
            self._observed[shapes, capacity] = _Observed(scenario, capacity, by_dtype, noise)
        return self._observed[shapes, capacity]


@dataclass(frozen=True, slots=True)
class _Observed:
    """Observations of the references by dtype, and what low precision makes of each call."""

    scenario: Scenario
    capacity: int
    by_dtype: Mapping[str, Sequence[Observation]]
    noise: Sequence[Noise]


def _verify_backend(
    name: str,
    bundle: Bundle,
    device: str | None,
    engines: str | os.PathLike[str] | None,
    trust: str | os.PathLike[str] | None,
    digest: str,
    sides: _References,
    layers: bool,
    say: Say,
) -> BackendReport:
    opens = partial(open_candidate, name, bundle, device, engines=engines, trust=trust, engines_sha256=digest)
    candidate = opens(layers=layers)
    engine = Engine(candidate.backend)
    try:
        comparisons = _compare(candidate, sides, say)
        say(f"{name}: tokens")
        modes = list(MODE_OPTIONS) if engine.can_verify_drafts else reference_modes()
        got = generate_all(engine, sides.prompts, sides.max_new_tokens, modes)
        near = tolerances_of(candidate.computes_in)
        generation = check_generation(sides.engine, sides.results, got, sides.prompts, near)
        notes = [*candidate.backend.notes]
    finally:
        engine.close()
    finding = None
    if not all(c.passed for c in comparisons):
        if not layers:  # the layer that went wrong is in there
            watched = opens(layers=True)
            try:
                in_layers = _compare(watched, sides, say)
            finally:
                watched.backend.close()
        finding = first_fault(bundle.config, comparisons if layers else in_layers)
    if layers and not candidate.shows_layers:
        notes.append(f"backend {name!r} does not show its layers; its outputs and tokens were compared")
    return BackendReport(
        name,
        candidate.device,
        candidate.version,
        candidate.computes_in,
        tuple(comparisons),
        finding,
        tuple(generation),
        tuple(notes),
    )


def _compare(candidate: Candidate, sides: _References, say: Say) -> list[Comparison]:
    """Return all comparisons with all references, call by call."""
    found: list[Comparison] = []
    expected = sides.observed(candidate.backend.limits)
    for i, got in enumerate(observe(candidate, expected.scenario, expected.capacity, say)):
        for dtype, observations in expected.by_dtype.items():
            tolerances = tolerances_of(candidate.computes_in, dtype)
            found += compare(got, observations[i], tolerances, dtype, expected.noise[i])
    return found


def _keep(
    bundle: Bundle,
    engines: str | os.PathLike[str] | None,
    trust: str | os.PathLike[str] | None,
    reports: Sequence[BackendReport],
    runs: Mapping[str, str],
    contents: WeightsCheck | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write a record beside everything that was run, keeping what it says of other backends.

    runs: name of each backend → digest of the manifest of what it ran.

    Returns their paths, and why old ones are still there.
    """
    sound = contents is None or contents.passed
    written, stale = [], []
    places = {r.name: (runs_from(bundle.path, r.name, engines), runs[r.name]) for r in reports}
    for folder, digest in dict.fromkeys(places.values()):
        own = [r for r in reports if places[r.name] == (folder, digest)]
        path, fault = _write(bundle, folder, digest, trust, own, sound, contents)
        written += [] if path is None else [str(path)]
        stale += [] if fault is None else [fault]
    return tuple(written), tuple(stale)


def _write(
    bundle: Bundle,
    folder: Path,
    digest: str,
    trust: str | os.PathLike[str] | None,
    reports: Sequence[BackendReport],
    sound: bool,
    contents: WeightsCheck | None,
) -> tuple[Path | None, str | None]:
    """Write one record; return its path, or why none was written where another one may be taken for it."""
    if _digest_now(folder) != digest:
        return None, f"{folder}: replaced while it was verified; what is there now was not, verify it"
    try:
        before = Verification.read(folder, digest, bundle.manifest_sha256, trust)
    except DigestError:  # not by whom is trusted: signed later, the new record would vouch for it
        before = None
    now = datetime.now(UTC).isoformat(timespec="seconds")
    fresh = {
        r.name: BackendRecord(r.passed and sound, r.device, r.computes_in, r.version, now) for r in reports
    }
    shards = dict(before.shards) if before else {}
    if contents is not None and contents.passed:
        shards |= contents.shards
    record = Verification(
        __version__,
        digest,
        bundle.manifest_sha256,
        {**(before.backends if before else {}), **fresh},
        shards,
    )
    try:
        return record.write(folder), None
    except InputError as fault:
        # What lies on a read-only disk can be verified, but carries no record of it.
        if not os.path.lexists(folder / RECORD_FILE):
            logger.warning("no record was kept: %s", fault)
            return None, None
        return None, f"{fault}; the record there is of an earlier verification and not of this one"


def _digest_now(folder: Path) -> str:
    """Return the digest of the manifest in a folder of ours."""
    name = MANIFEST_FILE if os.path.lexists(folder / MANIFEST_FILE) else ENGINES_FILE
    return file_digest(folder / name)
