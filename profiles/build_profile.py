"""Build profiles: the shapes, precision and targets an engine is built for. Presets are TOML files in
`presets/`; a path names a file of one's own.

    targets                                list of compute capabilities like "8.9"; empty: what the backend
                                           builds for by default
    precision                              "any", or the compute dtype that the graphs must have; the build
                                           refuses others, it converts nothing
    gpu_memory_gb                          memory of the GPU in units of 10⁹ bytes; may be left out. The plan
                                           says what does not fit
    experts                                list of the formats of routed experts that suit the GPU, the best
                                           first ("plain": not quantised); may be left out. `ttc plan`
                                           suggests the first; a build takes the graphs as they are
    [batch], [block], [chunk], [capacity]  each with min, opt and max

`block` is the number of tokens that the denoiser fills and that the context tower checks at once, `chunk` the
number of prompt tokens that the context tower reads in one call, `capacity` the number of tokens that the
cache of a row holds.

The context tower takes anything from one token to the larger of block and chunk, and gives logits for up to a
block of positions. Where block and chunk are both fixed, it takes exactly one token, a block or a chunk, and
in whole form there is an engine for each: a shorter input is padded, and the padding is not committed.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ttc.base.names import COMPUTE_DTYPES
from ttc.base.quantised import PLAIN, WRITTEN_FORMATS
from ttc.base.quoting import escaped, quoted
from ttc.base.suggestion import suggestion
from ttc.base.toml_file import read_toml
from ttc.errors import InputError

__all__ = ["DIMENSIONS", "PRECISIONS", "BuildProfile", "Range", "build_preset_names", "load_build_profile"]

DIMENSIONS = ("batch", "block", "chunk", "capacity")
PRECISIONS = ("any", *COMPUTE_DTYPES)
EXPERTS = (PLAIN, *WRITTEN_FORMATS)
# The scan of a Mamba layer is quadratic in the tokens read at once: 512 take 64 heads × 512² × 4 bytes = 64
# MiB a row.
MAX_TOKENS_AT_ONCE = 512
MAX_SIZE = 2**31 - 1  # of one dimension in TensorRT
_PACKAGE = "ttc.profiles"


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """The smallest, the usual and the largest size of one dimension."""

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        return str(self.min) if self.min == self.max else f"{self.min} to {self.max} (tuned for {self.opt})"


@dataclasses.dataclass(frozen=True, slots=True)
class BuildProfile:
    """What engines are built for.

    Attributes:
        name: the preset's name, or the file's without its suffix.
        batch: rows of a call.
        block: tokens that the denoiser fills at once.
        chunk: prompt tokens that the context tower reads in one call.
        capacity: tokens that the cache of a row holds.
        precision: "any", or the compute dtype that the graphs must have.
        targets: compute capabilities like "8.9"; empty: what the backend builds for by default.
        gpu_memory_gb: memory of the GPU in units of 10⁹ bytes; None: unknown.
        experts: formats of routed experts that suit the GPU, the best first; empty: nothing is known.
    """

    name: str
    batch: Range
    block: Range
    chunk: Range
    capacity: Range
    precision: str = "any"
    targets: tuple[str, ...] = ()
    gpu_memory_gb: int | None = None
    experts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in DIMENSIONS:
            self._check(name, getattr(self, name))
        for name in ("block", "chunk"):
            if getattr(self, name).max > MAX_TOKENS_AT_ONCE:
                raise self._refusal(
                    f"{name}.max is {getattr(self, name).max}", f"1 to {MAX_TOKENS_AT_ONCE} tokens"
                )
        if self.block.max > self.capacity.max:
            raise self._refusal(
                f"block.max is {self.block.max}, more than capacity.max {self.capacity.max}",
                "a block that fits the cache",
            )
        if self.precision not in PRECISIONS:
            raise self._refusal(f"precision is {quoted(self.precision)}", ", ".join(PRECISIONS))
        for word in self.experts:
            if word not in EXPERTS:
                raise self._refusal(f"experts names {quoted(word)}", ", ".join(EXPERTS))

    def _check(self, name: str, size: Range) -> None:
        for end in ("min", "opt", "max"):
            value = getattr(size, end)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIZE:
                raise self._refusal(
                    f"{name}.{end} is {quoted(value)}", f"a whole number from 1 to {MAX_SIZE}"
                )
        if not size.min <= size.opt <= size.max:
            raise self._refusal(
                f"{name} is min {size.min}, opt {size.opt}, max {size.max}", "min ≤ opt ≤ max"
            )

    def _refusal(self, wrong: str, valid: str) -> InputError:
        return InputError(f"profile {escaped(self.name)}: {wrong}; valid: {valid}")

    def sizes(self, role: str, end: str) -> dict[str, int]:
        """Return the sizes of B (batch), L (tokens read), C (capacity) and R (positions with logits).

        Args:
            role: the graph's role.
            end: "min", "opt" or "max".
        """
        block, chunk = getattr(self.block, end), getattr(self.chunk, end)
        reads = {"min": 1, "opt": block, "max": max(block, chunk)}[end]
        length = reads if role in ("context", "advance") else block
        positions = {"min": 1, "opt": 1, "max": self.block.max}[end]
        return {"B": getattr(self.batch, end), "L": length, "C": getattr(self.capacity, end), "R": positions}

    @property
    def context_lengths(self) -> tuple[int, ...]:
        """The only numbers of tokens that the context tower reads at once; empty where they are a range."""
        fixed = self.block.min == self.block.max and self.chunk.min == self.chunk.max
        return tuple(sorted({1, self.block.max, self.chunk.max})) if fixed else ()

    def override(self, changes: Mapping[str, Mapping[str, int]]) -> "BuildProfile":
        """Return a copy with single numbers replaced, as {"batch": {"max": 8}}."""
        if unknown := sorted(changes.keys() - set(DIMENSIONS)):
            raise InputError(f"no dimension {quoted(unknown[0])}; valid: {', '.join(DIMENSIONS)}")
        ranges = {
            name: dataclasses.replace(getattr(self, name), **ends) for name, ends in changes.items() if ends
        }
        return dataclasses.replace(self, **ranges) if ranges else self

    def to_dict(self) -> dict[str, Any]:
        """Return the form that an engine manifest stores."""
        return dataclasses.asdict(self) | {
            "targets": list(self.targets),
            "experts": list(self.experts),
        }


def build_preset_names() -> list[str]:
    """Return the names of the presets that come with the package, sorted."""
    folder = files(_PACKAGE).joinpath("presets")
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def load_build_profile(name_or_path: str | Path) -> BuildProfile:
    """Return the preset of this name, or what the TOML file at this path holds.

    Raises:
        InputError: there is no such preset or file, or it has unknown, missing or mistyped keys.
    """
    text = str(name_or_path)
    path = Path(name_or_path)
    if (name := text.lower()) in build_preset_names() and not path.is_file():
        preset = files(_PACKAGE).joinpath("presets", f"{name}.toml").read_text("utf-8")
        return _profile(name, tomllib.loads(preset))
    if not path.is_file():
        names = build_preset_names()
        raise InputError(
            f"no profile {quoted(text)}{suggestion(text, names)}; "
            f"valid: {', '.join(names)}, or the path of a TOML file"
        )
    return _profile(path.stem, read_toml(path, InputError, f"profile {path}"))


def _profile(name: str, table: dict[str, Any]) -> BuildProfile:
    where = f"profile {escaped(name)}"
    memory = table.pop("gpu_memory_gb", None)
    if memory is not None and (
        not isinstance(memory, int) or isinstance(memory, bool) or not 1 <= memory < 2**31
    ):
        raise InputError(f"{where}: gpu_memory_gb is {quoted(memory)}; valid: a whole number of at least 1")
    experts = table.pop("experts", [])
    if not isinstance(experts, list) or not all(isinstance(word, str) for word in experts):
        raise InputError(f'{where}: experts is {quoted(experts)}; valid: a list like ["int8", "fp8"]')
    _same_keys(where, table, (*DIMENSIONS, "precision", "targets"))
    targets = table["targets"]
    if not isinstance(targets, list) or not all(isinstance(item, str) for item in targets):
        raise InputError(f'{where}: targets is {quoted(targets)}; valid: a list like ["8.9", "12.0"]')
    if not isinstance(table["precision"], str):
        raise InputError(
            f"{where}: precision is {quoted(table['precision'])}; valid: {', '.join(PRECISIONS)}"
        )
    ranges = {dimension: _range(f"{where}: {dimension}", table[dimension]) for dimension in DIMENSIONS}
    return BuildProfile(
        name=name,
        precision=table["precision"],
        targets=tuple(targets),
        gpu_memory_gb=memory,
        experts=tuple(experts),
        **ranges,
    )


def _range(where: str, table: object) -> Range:
    if not isinstance(table, dict):
        raise InputError(f"{where} is {quoted(table)}; valid: a table with min, opt and max")
    _same_keys(where, table, ("min", "opt", "max"))
    return Range(**table)


def _same_keys(where: str, table: Mapping[str, object], known: tuple[str, ...]) -> None:
    if wrong := sorted(table.keys() ^ set(known)):
        names = ", ".join(escaped(name[:60]) for name in wrong[:5])
        raise InputError(f"{where}: unknown or missing keys: {names}; valid: {', '.join(known)}")
