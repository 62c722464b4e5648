"""Pictures that move: what the frames hold, and that every format tells the same."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from PIL import Image

from ttc.animation import html, svg
from ttc.animation.layout import lay_out
from ttc.animation.look import HOLD_FRAMES
from ttc.animation.save import save_steps
from ttc.animation.timeline import State, Timeline, recorded
from ttc.cli import program
from ttc.errors import InputError, MissingDependencyError
from ttc.runtime.decoding.result import Event

MASKED = 3


def step(block: int, number: int, *tokens: int) -> Event:
    masked = tuple(token == MASKED for token in tokens)
    return Event(0, block, number, tokens, masked, (0.5,) * len(tokens), committed=False, text=None)


def done(block: int, steps: int, *tokens: int) -> Event:
    return Event(0, block, steps, tokens, (False,) * len(tokens), None, committed=True, text=None)


def timeline(*events: Event, mode: str = "diffusion", prompt: str = "ask") -> Timeline:
    made = Timeline(mode, prompt, lambda token: f" {token}")
    for event in events:
        made.feed(event)
    return made


@pytest.fixture
def two_blocks() -> Timeline:
    """A block of three in two steps, then one that is cut after its first token."""
    return timeline(
        step(0, 0, 10, MASKED, MASKED),
        step(0, 1, 10, 11, 12),
        done(0, 2, 10, 11, 12),
        step(1, 0, 13, 14, 15),
        done(1, 1, 13),
    )


def states(made: Timeline, place: int) -> list[str]:
    return [str(made.tokens[place].at(frame)) for frame in range(made.frames)]


def test_what_becomes_of_every_token(two_blocks: Timeline) -> None:
    assert two_blocks.headlines == [
        "block 0   0 tokens",
        "block 0  step 1   1 tokens   1 NFE  1.00 tokens/NFE",
        "block 0  step 2   3 tokens   2 NFE  1.50 tokens/NFE",
        "block 0  done   3 tokens   2 NFE  1.50 tokens/NFE",
        "block 1   3 tokens   2 NFE  1.50 tokens/NFE",
        "block 1  step 1   6 tokens   3 NFE  2.00 tokens/NFE",
        "block 1  done   4 tokens   3 NFE  1.33 tokens/NFE",
    ]
    assert states(two_blocks, 0) == ["masked", "fresh", "filled", "settled", "settled", "settled", "settled"]
    assert states(two_blocks, 1) == ["masked", "masked", "fresh", "settled", "settled", "settled", "settled"]
    assert states(two_blocks, 3) == ["gone", "gone", "gone", "gone", "masked", "fresh", "settled"]
    assert states(two_blocks, 4) == ["gone", "gone", "gone", "gone", "masked", "fresh", "gone"]
    assert [token.text for token in two_blocks.tokens if token.stays] == [" 10", " 11", " 12", " 13"]


def test_tokens_that_are_final_at_once() -> None:
    made = timeline(done(0, 1, 10), done(1, 1, 11), mode="ar")
    assert [states(made, place) for place in (0, 1)] == [["settled", "settled"], ["gone", "settled"]]
    assert made.headlines[-1] == "token   2 tokens"


def test_a_draft_of_which_a_part_is_rejected() -> None:
    """Lossless: the first position is drawn already, and AR's own token takes the place of the first wrong
    one.
    """
    made = timeline(done(0, 0, 9), step(1, 0, 9, 10, 11, 12), done(1, 1, 10, 77), mode="lossless")
    assert [(token.text, states(made, place)[-1]) for place, token in enumerate(made.tokens)] == [
        (" 9", "settled"),
        (" 10", "settled"),
        (" 11", "gone"),
        (" 12", "gone"),
        (" 77", "settled"),
    ]
    columns = {piece.text: piece.column for piece in lay_out(made).pieces}
    assert columns[" 11"] == columns[" 77"]


def test_nothing_that_stays_overlaps(two_blocks: Timeline) -> None:
    long = timeline(*(done(n, 1, 1000 + n) for n in range(60)), mode="ar", prompt="word " * 40 + "\nend")
    for made in (two_blocks, long):
        sheet = lay_out(made)
        cells = [
            (piece.row, piece.column + at)
            for piece in sheet.pieces
            if piece.token is None or piece.token.stays
            for at in range(piece.cells)
        ]
        assert len(cells) == len(set(cells))
        assert all(0 <= row < sheet.rows and column < sheet.columns for row, column in cells)


def test_a_prompt_shows_its_end_and_control_characters_do_not_act() -> None:
    made = timeline(done(0, 1, 10), mode="ar", prompt="\n".join(f"line {n}\x1b" for n in range(30)))
    shown = [piece.text for piece in lay_out(made).pieces]
    assert shown[:2] == ["line", " 22\\x1b"]
    assert " 29\\x1b" in shown
    assert not any("\x1b" in text for text in shown)


def test_the_svg_moves_as_the_frames_say(two_blocks: Timeline) -> None:
    text = svg.draw(two_blocks, lay_out(two_blocks), 0.5)
    root = ET.fromstring(text)
    words = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    blanks = [word.replace("\u00a0", " ") for word in words]
    assert blanks[: two_blocks.frames] == two_blocks.headlines
    assert "\u00a012" in words  # a plain blank in front would be dropped
    frames = two_blocks.frames + HOLD_FRAMES
    # The first token: masked from the start, fresh in frame 1, filled in 2, settled in 3.
    box = re.search(r"@keyframes b0\{(.*?\})\}", text)
    assert box is not None
    assert re.findall(r"([\d.]+)%", box[1])[1:] == [f"{100 * frame / frames:.3f}" for frame in range(4)]
    assert f"{0.5 * frames:g}s step-end infinite" in text
    assert "<script" not in text
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_the_page_holds_the_frames_and_escapes_the_text(two_blocks: Timeline) -> None:
    two_blocks.prompt = "</script><b>"
    text = html.draw(two_blocks, lay_out(two_blocks), 0.5)
    (data,) = re.findall(r'id="data">(.*?)</script>', text)
    content = json.loads(data)
    assert content["heads"] == two_blocks.headlines
    assert content["wide"]["pieces"][0] == [0, 0, 12, "</script><b>", None]
    assert content["wide"]["pieces"][1][-1] == [[0, "masked"], [1, "fresh"], [2, "filled"], [3, "settled"]]
    assert text.count("</script>") == 2
    assert not re.search(r"https?://|src=|@import|url\(", text)


def test_the_gif_has_the_frames(two_blocks: Timeline, tmp_path: Path) -> None:
    save_steps(tmp_path / "a.gif", two_blocks)
    with Image.open(tmp_path / "a.gif") as image:
        assert getattr(image, "n_frames", 1) == two_blocks.frames
        first = image.convert("RGB").tobytes()
        image.seek(3)
        assert image.convert("RGB").tobytes() != first


def test_without_pillow_a_gif_is_refused(
    two_blocks: Timeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"\[gif\]', or write an .svg or .html"):
        save_steps(tmp_path / "a.gif", two_blocks)


def test_files_that_cannot_be(two_blocks: Timeline, tmp_path: Path) -> None:
    for name, complaint in (("a.mp4", "valid: .svg, .html, .gif"), ("no/a.svg", "its folder does not exist")):
        with pytest.raises(InputError, match=complaint):
            save_steps(tmp_path / name, two_blocks)
    with pytest.raises(InputError, match="nothing was generated"):
        save_steps(tmp_path / "a.svg", timeline())
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(InputError, match="a folder; name a file in it"):
        save_steps(tmp_path / "folder.svg", two_blocks)


def test_recording_changes_nothing() -> None:
    def events() -> object:
        yield step(0, 0, 10)
        return "the result"

    made = timeline()
    passed = recorded(events(), made)  # type: ignore[arg-type]  # a stand-in for a generation
    assert next(passed) == step(0, 0, 10)
    with pytest.raises(StopIteration, match="the result"):
        next(passed)
    assert [token.at(1) for token in made.tokens] == [State.FRESH]


@pytest.mark.parametrize("mode", ["diffusion", "ar", "mock-ar"])
def test_the_command(bundles: Callable[..., Path], tmp_path: Path, mode: str) -> None:
    file = tmp_path / "steps.html"
    asked = ["--ids", "1 5 6", "--max-new-tokens", "20", "--mode", mode]
    arguments = ["generate", str(bundles("tiny_a")), *asked]
    done = CliRunner().invoke(program, [*arguments, "--json", "--save-steps", str(file)])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    (data,) = re.findall(r'id="data">(.*?)</script>', file.read_text(encoding="utf-8"))
    content = json.loads(data)
    kept = [
        text for *_, text, changes in content["wide"]["pieces"] if changes and changes[-1][1] == "settled"
    ]
    assert [int(text) for text in "".join(kept).split()] == found["token_ids"]
    blocks = found["nfe"] + 2 * len(found["nfe_per_block"])
    assert len(content["heads"]) == (blocks if mode == "diffusion" else 20)
    refused = CliRunner().invoke(program, [*arguments, "--save-steps", str(tmp_path / "steps.avi")])
    assert refused.exit_code == 1
    assert "valid: .svg, .html, .gif" in refused.stderr
