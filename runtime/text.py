"""The tokenizer, and new tokens → text, at the end and piece by piece."""

from collections.abc import Collection, Sequence

from tokenizers import Tokenizer

from ttc.errors import BundleError
from ttc.model.bundle import Bundle

__all__ = ["TextStream", "decode", "load_tokenizer"]

_INCOMPLETE = "\ufffd"


def load_tokenizer(bundle: Bundle) -> Tokenizer | None:
    """The bundle's tokenizer; None where it has none."""
    if bundle.tokenizer_path is None:
        return None
    try:
        return Tokenizer.from_file(str(bundle.tokenizer_path))
    except Exception as error:  # the library raises bare Exception
        raise BundleError(f"{bundle.tokenizer_path} is not a tokenizer: {error}") from None


def decode(tokenizer: Tokenizer, tokens: Sequence[int], eos_token_ids: Collection[int]) -> str:
    """Text of the new tokens without the eos that ended them."""
    if tokens and tokens[-1] in eos_token_ids:
        tokens = tokens[:-1]
    text: str = tokenizer.decode(list(tokens))
    return text


class TextStream:
    """Text of a growing token list, piece by piece; the pieces join to the whole.

    A piece that ends inside a multi-byte character is held back until the character is complete or the row
    ends.
    """

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: Collection[int]) -> None:
        self._tokenizer, self._eos_token_ids = tokenizer, eos_token_ids
        self._given = ""

    def push(self, tokens: Sequence[int], final: bool) -> str:
        """The text that all tokens so far add to what was given before."""
        text = decode(self._tokenizer, tokens, self._eos_token_ids)
        if not final and text.endswith(_INCOMPLETE):
            text = text.rstrip(_INCOMPLETE)
        if not text.startswith(self._given):
            return ""
        piece, self._given = text[len(self._given) :], text
        return piece
