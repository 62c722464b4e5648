"""Tables fit the width they are given, and lose nothing by it."""

import pytest
from rich.cells import cell_len

from tests.support.command_line import run
from ttc.bench.tables import SPEED_HEAD
from ttc.commands.tables import fitted, wrapped
from ttc.commands.terminal import coloured, decimal_size, duration

ROWS = [
    [f"case {i}", "1", "2157", "2100–2200", "1.85", "6.19", "3.35", "30.1", "1.9", "9.1/9.9", "1/2"]
    for i in range(3)
]


@pytest.mark.parametrize("width", [None, 200, 120, 80, 60, 40])
def test_a_table_of_many_columns(width: int | None) -> None:
    lines = fitted(ROWS, SPEED_HEAD, width)
    assert max(map(cell_len, lines)) <= (width or 1000)
    words = " ".join(lines).split()
    assert set(words) >= {word for name in SPEED_HEAD for word in name.split()}, "no word is broken"
    assert all(words.count(cell) >= 3 for cell in ("2157", "2100–2200", "9.1/9.9"))
    tables = sum(line.is_head and "case" in line for line in lines)
    assert (tables == 1) is (width is None or width >= 120)
    if width is None:
        assert len(lines) == 4, "one line a row"


def test_a_long_text_wraps_between_words() -> None:
    rows = [["note", "a sentence of many words that goes on and on until it is over"], ["short", "text"]]
    lines = fitted(rows, None, 40)
    assert max(map(len, lines)) <= 40
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(row) for row in rows)
    assert lines[1].startswith("       ")


def test_a_long_line_wraps_below_its_label() -> None:
    line = "context   weights 4.9 MiB, KV cache 4.0 MiB, Mamba state 57.0 KiB"
    assert wrapped(line, None) == wrapped(line, 80) == [line]
    assert wrapped(line, 40) == [
        "context   weights 4.9 MiB, KV cache 4.0",
        "          MiB, Mamba state 57.0 KiB",
    ]
    assert wrapped("both towers on one: h100, h200", 20) == ["both towers on one:", "  h100, h200"]


def test_an_empty_table_and_a_word_too_long() -> None:
    assert fitted([], None, 80) == []
    assert fitted([], ("a", "b"), 80) == ["a  b"]
    assert "x" * 50 in "".join(line.strip() for line in fitted([["path", "x" * 50]], None, 30))


def test_units() -> None:
    assert [duration(s) for s in (2.5, 0.0123, 4.2e-5, 3e-9)] == ["2.50 s", "12.3 ms", "42.0 µs", "0.00 µs"]
    assert [decimal_size(n) for n in (7, 2_400_000, 126_400_000_000)] == ["7 B", "2.4 MB", "126.4 GB"]


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert coloured("x", fg="red") == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured("x", fg="red") == "x"


def test_a_misspelt_command_and_machine() -> None:
    done = run("generat")
    assert done.exit_code == 2
    assert "No such command 'generat'. (did you mean 'generate'?)" in done.stderr
    assert "no machine 'H20' (did you mean 'h200'?)" in run("plan", "--gpu", "H20").stderr
    assert run("plan", "--gpu", "H200").stdout == run("plan", "--gpu", "h200").stdout
    assert run("inspect", "H100").exit_code == 0


def test_completion_names_the_commands() -> None:
    """As a shell asks (docs/cli.md)."""
    done = run(env={"_TTC_COMPLETE": "bash_complete", "COMP_WORDS": "ttc gen", "COMP_CWORD": "1"})
    assert "plain,generate" in done.stdout
