"""The walks of docs/architecture.md are true: every room exists, is one import from a room just
before it, and has what its line names.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.source_modules import ROOT, Module, read_modules, synthetic

HEADING = re.compile(r"^### (.+)$", re.MULTILINE)
ROOM = re.compile(
    r"^\d+\. `(?P<path>[^`]+)`(?P<crossing> \(across a file on disk\))? → "
    r"(?P<line>(?:.+\n?)+?)(?=^\d+\. |^$|\Z)",
    re.MULTILINE,
)
QUOTED = re.compile(r"`([^`]+)`")
IDENTIFIER = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
FILE_ENDINGS = (".py", ".json")
# How many rooms back the import may be that leads to a room.
NEAR = 3


@dataclass(frozen=True, slots=True)
class Room:
    """One item of a walk: a file, whether a file on disk lies before it, and what is said of it."""

    path: str
    crossing: bool
    line: str = ""

    @property
    def names(self) -> list[str]:
        """Identifiers that the line quotes, of dotted ones the last part; names of files are none."""
        quoted = [name for name in QUOTED.findall(self.line) if IDENTIFIER.fullmatch(name)]
        return [name.rpartition(".")[2] for name in quoted if not name.endswith(FILE_ENDINGS)]


def walks() -> dict[str, list[Room]]:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.split("\n## Three walks\n", 1)[1].split("\n## ", 1)[0]
    _, *parts = HEADING.split(section)
    return {
        title: [
            Room(match["path"], match["crossing"] is not None, match["line"]) for match in ROOM.finditer(body)
        ]
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    }


def lost(rooms: list[Room], modules: dict[str, Module]) -> Iterator[str]:
    """Complaints about rooms that do not exist, that none of the last rooms leads to, or that lack a name."""
    names = {str(module.path): name for name, module in modules.items()}
    before: list[str] = []
    for room in rooms:
        name = names.get(room.path)
        if name is None:
            yield f"{room.path}: no such file"
            continue
        near = any(_imports(a, name, modules) or _imports(name, a, modules) for a in before[-NEAR:])
        if before and not room.crossing and not near:
            yield f"{room.path}: imports none of the {NEAR} rooms before it, and none of them imports it"
        for word in room.names:
            if not re.search(rf"\b{word}\b", modules[name].source):
                yield f"{room.path}: {word} does not occur in it"
        before.append(name)


def _imports(importer: str, imported: str, modules: dict[str, Module]) -> bool:
    return any(wanted.target == imported for wanted in modules[importer].imports(modules))


def test_there_are_three_walks_and_every_item_is_read() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    numbered = re.findall(r"^\d+\. ", text, re.MULTILINE)
    rooms = walks()
    assert len(rooms) == 3
    assert sum(map(len, rooms.values())) == len(numbered)
    assert [name for walk in rooms.values() for room in walk for name in room.names]


@pytest.mark.parametrize("title", walks())
def test_every_room_of_a_walk_is_one_import_away_and_has_what_is_named(title: str) -> None:
    assert not list(lost(walks()[title], read_modules(ROOT)))


def test_a_lost_room_is_found() -> None:
    modules = synthetic(
        runtime__engine="import ttc.runtime.loop",
        runtime__loop="def turn(): ...",
        exporter__cache="",
        exporter__build="import ttc.exporter.cache",
        exporter__plan="import ttc.exporter.build",
        runtime__rows="",
        runtime__far="import ttc.runtime.loop",
    )
    rooms = [
        Room("runtime/engine.py", False),
        Room("runtime/loop.py", False, "`Loop.turn` and `wheel` of `loop.json`"),
        Room("exporter/cache.py", True),
        Room("exporter/build.py", False),
        Room("exporter/plan.py", False),
        Room("runtime/far.py", False),
        Room("runtime/rows.py", False),
        Room("runtime/gone.py", False),
    ]
    astray = f"imports none of the {NEAR} rooms before it, and none of them imports it"
    assert list(lost(rooms, modules)) == [
        "runtime/loop.py: wheel does not occur in it",
        f"runtime/far.py: {astray}",
        f"runtime/rows.py: {astray}",
        "runtime/gone.py: no such file",
    ]
