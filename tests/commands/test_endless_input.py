"""Standard input that does not end, files that are none, and memory that is not there: one line, exit 1."""

import io
import os
from pathlib import Path

import pytest

from tests.support.command_line import refused, run
from ttc.commands import prompts
from ttc.errors import InputError
from ttc.formats import tokenizer
from ttc.runtime.engine import Engine


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a test can reach."""
    for name in ("_MOST_PROMPT", "_MOST_PROMPTS"):
        monkeypatch.setattr(prompts, name, 1000)


@pytest.mark.parametrize(
    "words", [("-",), ("--prompts", "-"), ("--interactive",)], ids=lambda words: words[0]
)
def test_standard_input_without_end(tiny: Path, little: None, words: tuple[str, ...]) -> None:
    line = refused("generate", tiny, *words, "--ids", "--max-new-tokens", 1, input="5 " * 501)
    assert "standard input: " in line
    assert "1000" in line


def test_standard_input_that_ends(tiny: Path, little: None) -> None:
    done = run("generate", tiny, "--interactive", "--ids", "--max-new-tokens", 1, input="5 6\n7")
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.timeout(30)
def test_a_pipe_for_a_schema(tiny: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    line = refused("generate", tiny, "5", "--ids", "--json-schema", tmp_path / "pipe")
    assert "pipe: not a regular file" in line


def test_a_text_that_no_model_reads(mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "_MOST_TEXT", 100)
    assert "a text of 101 characters; valid: up to 100" in refused("generate", mini, "x" * 101)
    with pytest.raises(InputError, match="a text of 101 characters"):
        tokenizer.encoded(None, "x" * 101)  # type: ignore[arg-type]


def test_too_little_memory_is_no_bug(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Engine, "generate", none)
    assert refused("generate", tiny, "5", "--ids") == "error: this needs more memory than there is"


def test_a_line_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a b\n\nlast"))
    assert [prompts.read_line() for _ in range(3)] == ["a b", "", "last"]
    with pytest.raises(EOFError):
        prompts.read_line()
