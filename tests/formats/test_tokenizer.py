"""Opening tokenizers that others wrote."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ttc.errors import BundleError, InputError
from ttc.formats import tokenizer as module
from ttc.formats.tokenizer import encoded, open_tokenizer

MINIATURE = Path(__file__).parents[2] / "ttc" / "miniature" / "tokenizer.json"


class Panic(BaseException):
    """As `pyo3_runtime.PanicException`: no `Exception`."""


def test_what_is_none_is_refused() -> None:
    for raw in (b"", b"{}", b"[" * 100_000, b"\xff", MINIATURE.read_bytes()[:2000]):
        with pytest.raises(BundleError, match=r"x: not a tokenizer that can be used \(") as refusal:
            open_tokenizer(raw, "x", BundleError)
        assert "\n" not in str(refusal.value)


def test_a_panic_at_the_trial_is_a_refusal(capfd: pytest.CaptureFixture[str]) -> None:
    content: dict[str, Any] = json.loads(MINIATURE.read_bytes())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }
    with pytest.raises(BundleError, match="not a tokenizer that can be used"):
        open_tokenizer(json.dumps(content).encode(), "x", BundleError)
    assert capfd.readouterr().err == "", "the panic's stack stays inside"


def test_a_panic_at_a_prompt_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*_: object) -> None:
        raise Panic("index out of bounds\nbacktrace")

    broken: Any = SimpleNamespace(encode=panic, encode_batch=panic)
    for text in ("short", "long" * module.LONG_TEXT):
        with pytest.raises(InputError, match=r"cannot encode this text \(index out of bounds\)"):
            encoded(broken, text)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoded(SimpleNamespace(encode=interrupt), "text")  # type: ignore[arg-type]


def test_a_good_one_is_opened() -> None:
    assert encoded(open_tokenizer(MINIATURE.read_bytes(), "x", BundleError), "Question:")
