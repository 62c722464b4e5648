"""What a repository has beside its code: pages in an order, workflows, a citation, a command to copy."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import ttc
from tests.house.test_docs import blocks, read
from tests.support.command_line import ask, run
from ttc import cli
from ttc.runtime import backends

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    """A module of `.ci`, which is no package."""
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    inside = nav if isinstance(nav, list) else nav.values()
    return [page for item in inside for page in pages(item)]


def test_every_page_has_its_place() -> None:
    listed = pages(yaml.safe_load(read("mkdocs.yml"))["nav"])
    made = {"reference-commands.md", "reference-python.md"}
    on_disk = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert len(listed) == len(set(listed))
    assert set(listed) == on_disk | made
    index = set(re.findall(r"\]\(([\w-]+\.md)\)", read("docs/index.md")))
    assert index == on_disk - {"index.md"}


def test_the_pages_made_from_the_code() -> None:
    site = script("pages")
    for name in cli.COMMANDS:
        assert f"## ttc {name}\n\n```text\nUsage: ttc {name} " in site.commands()
    for name in ttc.__all__:
        assert name == "__version__" or f"## ttc.{name}\n" in site.names()


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_workflows_and_templates_name_what_exists(workflow: Path) -> None:
    text = workflow.read_text(encoding="utf-8")
    assert yaml.safe_load(text)
    for path in re.findall(r"(?:python |run: )(\.ci/[\w.]+)", text):
        assert (ROOT / path).is_file(), path
    for module in re.findall(r"python -m (benchmarks\.\w+)", text):
        assert importlib.util.find_spec(module), module


def test_a_tag_must_be_the_version() -> None:
    distribution = script("distribution")
    with pytest.raises(SystemExit, match=r"the tag is v0\.0\.1, the version in"):
        distribution.check_tag("v0.0.1", ttc.__version__)
    if "(unreleased)" in read("CHANGELOG.md"):
        with pytest.raises(SystemExit, match="has no section"):
            distribution.check_tag(f"v{ttc.__version__}", ttc.__version__)
    assert f"version: {ttc.__version__}\n" in read("CITATION.cff")


def program_of_contributing(begin: str, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A program of the page as a module of `ttc`."""
    (source,) = [block.body for block in blocks(read("CONTRIBUTING.md")) if block.body.startswith(begin)]
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(source, module.__dict__)  # noqa: S102 - the page's program
    return module


def test_the_backend_of_contributing_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    program_of_contributing('"""Backend "counted"', "ttc.runtime.backends.counted.load", monkeypatch)
    monkeypatch.setattr(backends, "BACKENDS", (*backends.BACKENDS, "counted"))
    with ttc.load("miniature", "counted") as engine, ttc.load("miniature") as other:
        for mode in ("diffusion", "ar", "lossless"):
            engine.runner.calls.clear()
            result = engine.generate("Question: Sort 11, 61.\nAnswer:", mode=mode, max_new_tokens=20)
            same = other.generate("Question: Sort 11, 61.\nAnswer:", mode=mode, max_new_tokens=20)
            assert result.token_ids == same.token_ids
            if mode != "lossless":  # which also measures what its calls cost
                assert engine.runner.calls["context"] == result.stats.context_calls
                assert engine.runner.calls["denoiser"] == result.stats.nfe
        assert engine.runner.calls["denoiser"] > 0


def test_the_command_of_contributing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    program_of_contributing('"""`ttc count`', "ttc.commands.count", monkeypatch)
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, "count"))
    assert (
        run("count", "miniature", "Question:").stdout
        == f"{ask('count', 'miniature', 'Question:')['tokens']} tokens\n"
    )
    assert "Tokens of a text." in run("--help").stdout
