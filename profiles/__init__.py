"""Profiles: the shapes a model is run with. Presets are TOML files in this folder; a path names a file of
one's own.
"""

import dataclasses
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from ttc.errors import InputError

__all__ = ["Profile", "load_profile", "preset_names"]


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """The shapes of one way to run a model, in tokens.

    Attributes:
        name: the preset's or file's name.
        prefill_chunk: prompt tokens read in one context call. The scan of a chunk is quadratic in it.
        capacity_buckets: context capacities, ascending; a generation takes the first that holds it. Beyond
            the last, capacities are multiples of it.
    """

    name: str
    prefill_chunk: int
    capacity_buckets: tuple[int, ...]

    def __post_init__(self) -> None:
        if not _is_count(self.prefill_chunk) or self.prefill_chunk > 512:
            raise InputError(
                f"profile {self.name}: prefill_chunk is {self.prefill_chunk!r}; valid: 1 to 512 tokens"
            )
        buckets = self.capacity_buckets
        if not buckets or not all(map(_is_count, buckets)) or list(buckets) != sorted(set(buckets)):
            raise InputError(
                f"profile {self.name}: capacity_buckets is {list(buckets)!r}; "
                "valid: ascending positive token counts"
            )

    def capacity_for(self, tokens: int) -> int:
        """The smallest capacity that holds this many tokens."""
        for bucket in self.capacity_buckets:
            if tokens <= bucket:
                return bucket
        largest = self.capacity_buckets[-1]
        return -(-tokens // largest) * largest


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(
        path.name.removesuffix(".toml") for path in files(__name__).iterdir() if path.name.endswith(".toml")
    )


def load_profile(name_or_path: str | Path) -> Profile:
    """A preset by name, or a TOML file by path; unknown, missing and mistyped keys are refused by name."""
    text = str(name_or_path)
    if text in preset_names():
        return _parse(text, files(__name__).joinpath(f"{text}.toml").read_text("utf-8"))
    path = Path(name_or_path)
    if not path.is_file():
        raise InputError(
            f"no profile {text!r}; valid: {', '.join(preset_names())}, or the path of a TOML file"
        )
    try:
        return _parse(path.stem, path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"profile {path} cannot be read: {error}") from None


def _parse(name: str, text: str) -> Profile:
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"profile {name} is not TOML: {error}") from None
    known = {field.name for field in dataclasses.fields(Profile)} - {"name"}
    if table.keys() != known:
        wrong = ", ".join(sorted(table.keys() ^ known))
        raise InputError(
            f"profile {name}: unknown or missing keys: {wrong}; valid: {', '.join(sorted(known))}"
        )
    buckets = table.pop("capacity_buckets")
    if not isinstance(buckets, list):
        raise InputError(f"profile {name}: capacity_buckets is {buckets!r}; valid: a list of token counts")
    return Profile(name=name, capacity_buckets=tuple(buckets), **table)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
