"""The walks of docs/architecture.md are true: their rooms exist, each one import from a room before it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.source_modules import ROOT, Module, read_modules, synthetic

HEADING = re.compile(r"^### (.+)$", re.MULTILINE)
ROOM = re.compile(r"^\d+\. `(?P<path>[^`]+)`(?P<crossing> \(across a file on disk\))? → ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Room:
    """One line of a walk: a file, and whether a file on disk lies between it and what is before."""

    path: str
    crossing: bool


def walks() -> dict[str, list[Room]]:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.split("\n## Three walks\n", 1)[1].split("\n## ", 1)[0]
    _, *parts = HEADING.split(section)
    return {
        title: [Room(match["path"], match["crossing"] is not None) for match in ROOM.finditer(body)]
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    }


def lost(rooms: list[Room], modules: dict[str, Module]) -> Iterator[str]:
    """Rooms that do not exist, or that no room before them leads to."""
    names = {str(module.path): name for name, module in modules.items()}
    before: list[str] = []
    for room in rooms:
        name = names.get(room.path)
        if name is None:
            yield f"{room.path}: no such file"
            continue
        near = any(_imports(a, name, modules) or _imports(name, a, modules) for a in before)
        if before and not room.crossing and not near:
            yield f"{room.path}: imports no room before it, and none imports it"
        before.append(name)


def _imports(importer: str, imported: str, modules: dict[str, Module]) -> bool:
    return any(wanted.target == imported for wanted in modules[importer].imports(modules))


def test_there_are_three_walks() -> None:
    assert [len(rooms) > 4 for rooms in walks().values()] == [True] * 3


@pytest.mark.parametrize("title", walks())
def test_every_room_of_a_walk_is_one_import_away(title: str) -> None:
    assert not list(lost(walks()[title], read_modules(ROOT)))


def test_a_lost_room_is_found() -> None:
    modules = synthetic(
        runtime__engine="import ttc.runtime.loop", runtime__loop="", exporter__cache="", runtime__rows=""
    )
    paths = [
        ("runtime/engine.py", False),
        ("runtime/loop.py", False),
        ("exporter/cache.py", True),
        ("runtime/rows.py", False),
        ("runtime/gone.py", False),
    ]
    assert list(lost([Room(*path) for path in paths], modules)) == [
        "runtime/rows.py: imports no room before it, and none imports it",
        "runtime/gone.py: no such file",
    ]
