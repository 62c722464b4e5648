"""Named machines: their bandwidth, arithmetic and memory, from `machines.toml` or a file of one's own."""

import dataclasses
import math
import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ttc.base.quoting import escaped, quoted
from ttc.base.suggestion import suggestion
from ttc.base.toml_file import read_toml
from ttc.errors import InputError

__all__ = ["Machine", "known_machines", "load_machine"]

_NEEDED = ("bytes_per_second", "flops_per_second", "memory_bytes")
_CAPABILITY = re.compile(r"\d{1,2}\.\d")
_OPTIONAL = ("packing_bytes_per_second", "instructions_per_second")


@dataclass(frozen=True, slots=True)
class Machine:
    """One processor; `machines.toml` says what the numbers mean.

    packing_bytes_per_second: of a CPU whose library lays the stacked weights of experts out anew in every
        call of more than one row, as ONNX Runtime's does: the rate at which that goes. None: it does not.
    capability: of a GPU, its compute capability ("9.0"); None: unknown, or no GPU.
    instructions_per_second: of a GPU, how many instructions of single threads it issues; None: unknown.
    """

    name: str
    bytes_per_second: float
    flops_per_second: float
    memory_bytes: float
    source: str
    packing_bytes_per_second: float | None = None
    capability: str | None = None
    instructions_per_second: float | None = None

    def __post_init__(self) -> None:
        for key, most in (("name", 100), ("source", 2000)):
            value = getattr(self, key)
            if not isinstance(value, str) or not 0 < len(value) <= most:
                raise InputError(
                    f"machine: {key} is {quoted(value)}; valid: a text of at most {most} characters"
                )
        for key in (*_NEEDED, *_OPTIONAL):
            value = getattr(self, key)
            if key in _OPTIONAL and value is None:
                continue
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
                raise InputError(f"machine {self.name}: {key} is {quoted(value)}; valid: a positive number")
        if self.capability is not None and not _CAPABILITY.fullmatch(str(self.capability)):
            raise InputError(
                f"machine {self.name}: capability is {quoted(self.capability)}; valid: like '9.0'"
            )


def known_machines() -> dict[str, Machine]:
    """Return everything in `machines.toml`, by the name that `--gpu` takes."""
    text = files(__package__).joinpath("machines.toml").read_text("utf-8")
    return {key: _machine(table, key) for key, table in tomllib.loads(text).items()}


def load_machine(name_or_path: str) -> Machine:
    """Return a known machine by name, or the one in a TOML file of the same keys, without a heading."""
    known = known_machines()
    if (name := name_or_path.lower()) in known and not Path(name_or_path).is_file():
        return known[name]
    path = Path(name_or_path)
    if not path.is_file():
        names = ", ".join(known)
        meant = suggestion(name_or_path, known)
        raise InputError(
            f"no machine {quoted(name_or_path)}{meant}; valid: {names}, or the path of a TOML file"
        )
    return _machine(read_toml(path, InputError, f"machine {path}"), str(path))


def _machine(table: object, where: str) -> Machine:
    keys = {field.name for field in dataclasses.fields(Machine)}
    needed = {field.name for field in dataclasses.fields(Machine) if field.default is dataclasses.MISSING}
    if not isinstance(table, dict) or not needed <= table.keys() <= keys:
        wrong = "not a table"
        if isinstance(table, dict):
            wrong = ", ".join(
                escaped(name[:60]) for name in sorted((table.keys() - keys) | (needed - table.keys()))[:5]
            )
        raise InputError(
            f"machine {where}: unknown or missing keys: {wrong}; valid: {', '.join(sorted(keys))}"
        )
    return Machine(**table)
