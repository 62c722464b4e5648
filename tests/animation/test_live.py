"""The live view: what it counts, and what it shows of every event."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tokenizers import Tokenizer, decoders, models

from ttc.animation.live import StepView, pieces, visible
from ttc.runtime.decoding.draft_stats import DraftRecord, Plan
from ttc.runtime.decoding.result import Event

ROOT = Path(__file__).parents[2]
MASKED = 3


def step(block: int, number: int, *tokens: int) -> Event:
    masked = tuple(token == MASKED for token in tokens)
    return Event(0, block, number, tokens, masked, (0.5,) * len(tokens), committed=False, text=None)


def done(block: int, steps: int, *tokens: int, text: str | None = None) -> Event:
    return Event(0, block, steps, tokens, (False,) * len(tokens), None, committed=True, text=text)


def fed(view: StepView, *events: Event) -> list[str]:
    return [view.feed(event) for event in events]


def picture(view: StepView, width: int = 80, height: int = 20, color: bool = False) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        height=height,
        force_terminal=True,
        color_system="truecolor",
        no_color=not color,
    )
    console.print(view)
    return stream.getvalue()


def plain(view: StepView, width: int = 80, height: int = 20) -> str:
    """The picture without styles."""
    return re.sub(r"\x1b\[[\d;]*m", "", picture(view, width, height))


@pytest.fixture
def mini_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(ROOT / "ttc" / "miniature" / "tokenizer.json"))


def test_lines_of_ids() -> None:
    view = StepView("diffusion", "1 2", None)
    assert fed(
        view,
        step(0, 0, 10, MASKED, 12, MASKED),
        step(0, 1, 10, 11, 12, 13),
        done(0, 2, 10, 11, 12, 13),
        step(1, 0, 14, 15, 16, 17),
        done(1, 1, 14),
    ) == [
        "block   0  step  1   2 masked  NFE   1   2.00 tokens/NFE | 10 ░ 12 ░",
        "block   0  step  2   0 masked  NFE   2   2.00 tokens/NFE | 10 11 12 13",
        "block   0  done in  2 steps  NFE   2   2.00 tokens/NFE | 10 11 12 13",
        "block   1  step  1   0 masked  NFE   3   2.67 tokens/NFE | 14 15 16 17",
        "block   1  done in  1 steps  NFE   3   1.67 tokens/NFE | 14",
    ]
    assert (view.text, view.tokens) == ("10 11 12 13 14", [10, 11, 12, 13, 14])
    assert (view.nfe, view.nfe_per_block) == (3, [2, 1])


def test_lines_of_ar() -> None:
    view = StepView("ar", "1 2", None)
    assert fed(view, done(0, 1, 10), done(1, 1, 11)) == ["token   0 | 10", "token   1 | 11"]
    assert (view.nfe, view.nfe_per_block) == (0, [])


def test_lines_of_mock_ar() -> None:
    view = StepView("mock-ar", "1 2", None)
    assert fed(view, done(0, 1, 10), done(1, 1, 11))[-1] == "token   1  NFE   2   1.00 tokens/NFE | 11"
    assert view.nfe_per_block == [1, 1]


def test_lines_of_text(mini_tokenizer: Tokenizer) -> None:
    ids = mini_tokenizer.encode(" has\nThe", add_special_tokens=False).ids
    view = StepView("diffusion", "Nina", mini_tokenizer)
    first = view.feed(step(0, 0, *ids[:-1], MASKED))
    assert first.endswith("|  has⏎Th░")
    assert view.feed(done(0, 1, *ids, text=" has\nThe")).endswith("|  has⏎The")
    assert view.text == " has\nThe"


def test_a_piece_keeps_its_blank_whatever_the_decoder() -> None:
    words = Tokenizer(models.WordLevel({"▁red": 0, "▁house": 1, "s": 2}, unk_token="s"))
    words.decoder = decoders.Metaspace()
    assert words.decode([0]) == "red"
    assert [pieces(words)(token) for token in range(3)] == [" red", " house", "s"]


def test_pieces_join_to_the_text(mini_tokenizer: Tokenizer) -> None:
    text = "Question: Nina fills 6 shelves.\nAnswer: 78-28=50 {}"
    ids = mini_tokenizer.encode(text, add_special_tokens=False).ids
    assert "".join(map(pieces(mini_tokenizer), ids)) == text


def test_pieces_show_special_tokens_and_broken_characters(mini_tokenizer: Tokenizer) -> None:
    piece = pieces(mini_tokenizer)
    assert piece(2) == "·"
    assert {piece(token) for token in mini_tokenizer.encode("é", add_special_tokens=False).ids} == {"\ufffd"}


def test_control_characters_do_not_act() -> None:
    assert visible("a\nb\r\t\x1b[31m\x9b\x7f é░") == "a⏎b␍⇥\\x1b[31m\\x9b\\x7f é░"
    assert visible("a\nb\r", keep_newlines=True) == "a\nb␍"


def test_the_picture_of_a_block() -> None:
    view = StepView("diffusion", "prompt", None)
    assert "reading the prompt" in plain(view)
    fed(view, step(0, 0, 10, MASKED, MASKED), step(0, 1, 10, MASKED, 12))
    shown = plain(view)
    assert "block   0  step  2   1 masked  NFE   2   1.00 tokens/NFE" in shown
    assert "prompt  10 ░░ 12" in shown
    assert "■□■" in shown
    view.feed(done(0, 3, 10, 11, 12))
    assert "prompt 10 11 12" in plain(view)


def test_fresh_commits_stand_out() -> None:
    view = StepView("diffusion", "", None)
    fed(view, step(0, 0, 10, MASKED, MASKED), step(0, 1, 10, 11, MASKED))
    shown = picture(view, color=True)
    assert "\x1b[1;30;102m11\x1b[0m" in shown
    assert "\x1b[32m10\x1b[0m" in shown
    # Without colours they are still bold.
    assert "\x1b[1m11\x1b[0m" in picture(view)


def test_a_block_opens_with_nothing_decided() -> None:
    view = StepView("diffusion", "", None)
    first = step(0, 0, 10, MASKED, 12)
    assert view.open_block(first)
    assert "□□□" in plain(view)
    assert "step  0   3 masked" in plain(view)
    assert view.nfe == 0
    view.feed(first)
    assert "■□■" in plain(view)
    assert not view.open_block(step(0, 1, 10, 11, 12))
    assert not view.open_block(done(0, 2, 10, 11, 12))
    assert view.nfe_per_block == [1]


@pytest.mark.parametrize(("width", "height"), [(20, 5), (10, 3), (40, 12)])
def test_the_picture_fits_the_screen_and_shows_the_end(width: int, height: int) -> None:
    view = StepView("diffusion", "word " * 300, None)
    fed(view, step(0, 0, *range(10, 25), 77777))
    lines = plain(view, width, height).splitlines()
    assert len(lines) <= max(height, 5)
    assert all(len(line) <= width for line in lines)
    assert "77777" in "".join(lines).replace(" ", "").replace("│", "")


def settled(block: int, drafted: int, accepted: int, rejected: tuple[int, ...], *tokens: int) -> Event:
    """The end of a round of lossless mode, of one step if anything was drafted."""
    steps = int(drafted > 0)
    made = DraftRecord(Plan(drafted, steps, "best", 2.5, 0.004), drafted, steps, accepted)
    event = done(block, steps, *tokens)
    return replace(event, draft_record=made, rejected=rejected)


def test_rounds_of_lossless_mode() -> None:
    view = StepView("lossless", "1 2", None)
    lines = fed(
        view,
        done(0, 0, 10),
        step(1, 0, 10, 11, 12, MASKED),
        settled(1, 3, 1, (12, 13), 11, 20),
        settled(2, 0, 0, (), 21),
        step(3, 0, 21, 22, 2),
        settled(3, 2, 2, (), 22, 2),
    )
    plan = "(best: 2.5 tokens in 4.0 ms)"
    assert lines == [
        "round   0  from the prompt | 10",
        "round   1  step  1   1 masked | 11 12 ░",
        f"round   1   3 drafted in  1 steps,  1 accepted, corrected,  2 rejected  {plan} | 11[+20][-12 13]",
        f"round   2   0 drafted in  0 steps,  0 accepted, continued,  0 rejected  {plan} | [+21]",
        "round   3  step  1   0 masked | 22 2",
        f"round   3   2 drafted in  1 steps,  2 accepted, ended,  0 rejected  {plan} | 22 2",
    ]
    assert view.tokens == [10, 11, 20, 21, 22, 2]
    assert view.nfe_per_block == [0, 1, 0, 1]


def test_the_picture_marks_what_a_round_did() -> None:
    view = StepView("lossless", "1 2", None)
    fed(view, done(0, 0, 10), step(1, 0, 10, 11, 12, 13))
    assert "1 2 10 11 12 13" in plain(view, width=100)
    assert "■■■ " in plain(view, width=100), "the pending token is no place of the draft"
    fed(view, settled(1, 3, 1, (12, 13), 11, 20))
    assert "1 2 10 11 20 12 13" in plain(view, width=100)
    marked = picture(view, width=100, color=True)
    assert re.search(r"\x1b\[9;31m *12 13", marked), "what was rejected is struck out"
    fed(view, step(2, 0, 20, 21))
    assert "1 2 10 11 20 21" in plain(view, width=100), "and is gone with the next step"
