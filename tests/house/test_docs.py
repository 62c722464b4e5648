"""The documents tell the truth: commands run, targets and paths exist.

A fenced block after the line `<!-- test -->` is run: `console` and `bash` blocks by bash (of a console block
the lines after `$ `), `python` blocks by Python. The blocks of a file run in order, in one folder.
"""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.tables import DOCUMENTS as DOCUMENTS_WITH_TABLES
from benchmarks.tables import with_tables
from tests.support.command_line import run
from tests.support.commands import command_environment, run_block

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "examples/*.md", "examples/*/*.md")
    for path in sorted(ROOT.glob(pattern))
]
FENCE = re.compile(
    r"(?P<test><!-- test -->\n+)?^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
TOP_FOLDERS = (
    ".ci",
    "benchmarks",
    "deploy",
    "docs",
    "examples",
    "exporter",
    "plugins",
    "profiles",
    "runtime",
    "serving",
    "tests",
    "ttc",
)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a document."""

    kind: str
    body: str
    tested: bool

    def script(self) -> str:
        if self.kind != "console":
            return self.body
        return "".join(
            line.removeprefix("$ ") + "\n" for line in self.body.splitlines() if line.startswith("$ ")
        )


def blocks(text: str) -> list[Block]:
    return [Block(m["kind"], m["body"], m["test"] is not None) for m in FENCE.finditer(text)]


def make_targets(text: str) -> set[str]:
    """Targets named as `make x`, in a fenced block or inline code."""
    code = [block.script() for block in blocks(text)] + CODE.findall(FENCE.sub("", text))
    return {target for piece in code for target in re.findall(r"\bmake ([a-z][\w-]*)", piece)}


def named_paths(text: str) -> set[str]:
    """Paths of the repository in inline code; those with a placeholder in them are left out."""
    pattern = re.compile(rf"(?:{'|'.join(map(re.escape, TOP_FOLDERS))})/[\w./-]*")
    return {code for code in CODE.findall(FENCE.sub("", text)) if pattern.fullmatch(code)}


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def existing_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", read("Makefile"), re.MULTILINE))


def test_the_reader_reads() -> None:
    text = (
        "Run `make it`, see [x](y/z.md) and `ttc/errors.py`.\n"
        "<!-- test -->\n```console\n$ a\nb\n$ make c\n```\n"
    )
    assert [(block.kind, block.script(), block.tested) for block in blocks(text)] == [
        ("console", "a\nmake c\n", True)
    ]
    assert make_targets(text) == {"it", "c"}
    assert LINK.findall(text) == ["y/z.md"]
    assert named_paths(text) == {"ttc/errors.py"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document: str) -> None:
    assert make_targets(read(document)) <= existing_targets()


def test_the_readme_names_the_main_targets() -> None:
    assert {"demo", "test", "check", "bench", "gpu", "clean"} <= make_targets(read("README.md"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths_lead_somewhere(document: str) -> None:
    text = read(document)
    links = {
        link.split("#")[0] for link in LINK.findall(text) if "://" not in link and not link.startswith("#")
    }
    lost = [link for link in links if not (ROOT / document).parent.joinpath(link).exists()]
    lost += [path for path in named_paths(text) if not (ROOT / path).exists()]
    assert not lost


def test_the_programs_of_embedding(mini: Path, tmp_path: Path) -> None:
    """In one process: each goes on where the one before it ended."""
    tested = [block for block in blocks(read("docs/embedding.md")) if block.tested]
    assert len(tested) == 7
    assert {block.kind for block in tested} == {"python"}
    (tmp_path / "model.bundle").symlink_to(mini)
    environment = command_environment(tmp_path / "bin")
    run_block("python", "\n".join(block.script() for block in tested), tmp_path, environment)


def test_structured_output(mini: Path, tmp_path: Path) -> None:
    tested = [block for block in blocks(read("docs/structured.md")) if block.tested]
    assert [block.kind for block in tested] == ["python", "console"]
    (tmp_path / "model.bundle").symlink_to(mini)
    environment = command_environment(tmp_path / "bin")
    printed = [run_block(block.kind, block.script(), tmp_path, environment) for block in tested]
    assert "'keys': " in printed[0]
    assert printed[1].splitlines()[-1] in ("yes", "no")


def test_the_program_of_the_readme(tmp_path: Path) -> None:
    """`make check` reads it as a type checker; here it runs."""
    (block,) = [block for block in blocks(read("README.md")) if block.tested]
    client = read("tests/house/clients/readme.py")
    assert client.endswith(f"\n\n{block.body}")
    printed = run_block("python", block.body, tmp_path, command_environment(tmp_path / "bin"))
    assert printed.splitlines()[0] == " 11, 44, 61, 74."
    assert printed.splitlines()[1].endswith("denoiser passes for 17 tokens")


def test_the_programs_of_python_md(tmp_path: Path) -> None:
    tested = [block for block in blocks(read("docs/python.md")) if block.tested]
    assert len(tested) == 3
    printed = run_block(
        "python", "\n".join(block.body for block in tested), tmp_path, command_environment(tmp_path / "bin")
    )
    assert "rows of up to 4096 tokens" in printed


@pytest.mark.slow
def test_the_commands_of_the_tour(
    tmp_path: Path, bundles: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the export, whose bundle the tests share, and what other pages run."""
    tested = [block for block in blocks(read("docs/tour.md")) if block.tested]
    assert {block.kind for block in tested} >= {"console", "python"}
    first, _ = tested[0].script().splitlines()
    assert first == "ttc export miniature -o model.bundle --dtype float32"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.bundle").symlink_to(bundles("miniature", "float32"))
    environment = command_environment(tmp_path / "bin")
    for block in tested[1:]:
        if block.kind == "python":
            run_block("python", block.body, tmp_path, environment)
            continue
        for line in block.script().splitlines():
            if re.search(r"[$|>]", line):  # what only a shell can
                run_block("console", line, tmp_path, environment)
            elif not line.startswith(("polygraphy ", "ttc verify ", "ttc profile ")):
                done = run(*shlex.split(line)[1:])
                assert done.exit_code == 0, f"{line}: {done.output}"
    answers = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(answers[0])["text"] == " 11, 44, 61, 74."
    for made in ("block.svg", "bench.html", "small"):
        assert (tmp_path / made).exists()


def test_the_picture_of_the_readme(tmp_path: Path) -> None:
    """`ttc generate miniature --example story --save-steps docs/pictures/block.svg` makes it anew."""
    picture = tmp_path / "block.svg"
    done = run("generate", "miniature", "--example", "story", "--save-steps", picture)
    assert done.exit_code == 0, done.stderr
    assert picture.read_text("utf-8") == read("docs/pictures/block.svg")


def test_the_tables_are_those_of_the_records() -> None:
    """`python -m benchmarks.tables` makes them anew."""
    assert DOCUMENTS_WITH_TABLES
    for path in DOCUMENTS_WITH_TABLES:
        text = path.read_text(encoding="utf-8")
        assert with_tables(text) == text, path


def test_a_table_or_figure_without_its_record_is_told() -> None:
    """A slip in a name must not leave an old figure standing."""
    with pytest.raises(KeyError):
        with_tables("<!-- table: nothing -->\nold\n<!-- end -->")
    with pytest.raises(FileNotFoundError):
        with_tables("<!-- figure: nothing.key .1f -->1.0<!-- end -->")
    with pytest.raises(KeyError):
        with_tables("<!-- figure: serving.nothing .1f -->1.0<!-- end -->")
    kept = "<!-- figure: core_cpu.static_batch.rows d -->{}<!-- end -->"
    assert with_tables(kept.format("old")) == kept.format("16")
