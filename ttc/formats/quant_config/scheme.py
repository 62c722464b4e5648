"""Which modules of a checkpoint are quantised, and how, in one form for all files that say so."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ttc.errors import CheckpointError
from ttc.formats.quant_config.patterns import Patterns
from ttc.formats.strictjson import quoted

__all__ = ["Scheme", "words"]


@dataclass(frozen=True, slots=True)
class Scheme:
    """What a checkpoint's configuration files say.

    Attributes:
        where: the file or files, in messages.
        algorithm: what they call the whole.
        rules: which modules have which layout (`ttc.formats.quantised.layouts`); the first that fits counts.
        excluded: modules that are not quantised.
    """

    where: str
    algorithm: str
    rules: tuple[tuple[Patterns, str], ...]
    excluded: Patterns

    @property
    def layouts(self) -> frozenset[tuple[str, str]]:
        """Every entry of the rules with its layout."""
        return frozenset((entry, layout) for patterns, layout in self.rules for entry in patterns.entries)

    def layout_of(self, names: Iterable[str]) -> str | None:
        """Return the layout of the module with these names, were it not excluded; None: no rule has it."""
        names = tuple(names)
        return next((layout for patterns, layout in self.rules if patterns.match(names) is not None), None)


def words(config: Mapping[str, Any], key: str, where: str) -> list[str]:
    """Return the list of texts under `key`, which may be missing or null."""
    value = config.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CheckpointError(f"{where}: {quoted(key)} is {quoted(value)}, a list of texts is due")
    return value
