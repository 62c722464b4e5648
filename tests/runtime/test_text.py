"""New tokens → text, piece by piece: nothing is lost, nothing comes twice, and a piece costs what is new."""

from itertools import chain, pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from ttc.runtime.text import RowText, TextStream, load_tokenizer, without_control_tokens

WORDS = ["▁the", "▁a", "he", "llo", "▁", "x", ".", "é", "▁wörld", "€", "日本"]
EOS = 2


def byte_fallback():
    """As Llama's: words, a token for every byte that no word has, and the first space is left out."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<mask>"])}
    for token in [f"<0x{byte:02X}>" for byte in range(256)] + WORDS:
        vocabulary[token] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<pad>"))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>", "<mask>")])
    return tokenizer


def byte_level():
    """As GPT-2's: every token is a string of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<mask>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>", "<mask>")])
    return tokenizer


TOKENIZERS = {"byte fallback": byte_fallback(), "byte level": byte_level()}


class Counting:
    """A tokenizer that counts the tokens it decodes."""

    def __init__(self, tokenizer):
        self._tokenizer, self.decoded = tokenizer, 0

    def decode(self, tokens, **options):
        self.decoded += len(tokens)
        return self._tokenizer.decode(tokens, **options)

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)


def bytes_of(text):
    """The text as byte tokens of the byte fallback tokenizer."""
    return [4 + byte for byte in text.encode()]


def pieces(tokenizer, tokens, widths=(1,), skip=True):
    """The pieces that come of pushing tokens by so many at a time, over and over."""
    stream, given, i, turn = TextStream(tokenizer, skip), [], 0, 0
    while i < len(tokens):
        given.append(stream.push(tokens[i : i + widths[turn % len(widths)]]))
        i, turn = i + widths[turn % len(widths)], turn + 1
    return [*given, stream.push([], final=True)]


def test_a_decoded_prefix_is_no_prefix_of_the_whole():
    """The case that silenced streams: an open character is one sign for each of its bytes."""
    tokenizer = TOKENIZERS["byte fallback"]
    tokens = bytes_of("日本語 €")
    decoded = [tokenizer.decode(tokens[:i]) for i in range(1, len(tokens) + 1)]
    assert not all(later.startswith(earlier) for earlier, later in pairwise(decoded))
    given = pieces(tokenizer, tokens)
    assert "".join(given) == "日本語 €"
    assert all("\ufffd" not in piece for piece in given)
    assert given[:3] == ["", "", "日"], "an open character is held back, and no more than that"


texts = st.text(st.sampled_from("ab .é€日本語🙂\n"), max_size=40)
widths = st.lists(st.integers(1, 7), min_size=1, max_size=4)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=texts, widths=widths)
def test_every_text_arrives(name, text, widths):
    tokenizer = TOKENIZERS[name]
    tokens = bytes_of(text) if name == "byte fallback" else tokenizer.encode(text).ids
    given = pieces(tokenizer, tokens, widths)
    assert "".join(given) == tokenizer.decode(tokens)
    assert all("\ufffd" not in piece for piece in given)


word = (
    st.sampled_from(["<s>", "</s>", "<mask>", *WORDS])
    .map(TOKENIZERS["byte fallback"].token_to_id)
    .map(lambda token: [token])
)
character = st.sampled_from("é€日🙂 ").map(bytes_of)


@given(parts=st.lists(word | character, max_size=30), widths=widths, skip=st.booleans())
def test_words_bytes_and_control_tokens_in_any_order(parts, widths, skip):
    """Also where a control token that is not shown stands before a space."""
    tokenizer, tokens = TOKENIZERS["byte fallback"], list(chain.from_iterable(parts))
    given = pieces(tokenizer, tokens, widths, skip)
    assert "".join(given) == tokenizer.decode(tokens, skip_special_tokens=skip)


def test_a_hidden_token_before_a_space_hides_no_space():
    """Llama's decoder leaves out a space at the start of what it is given."""
    tokenizer = TOKENIZERS["byte fallback"]
    tokens = [tokenizer.token_to_id(token) for token in ("▁the", "<s>", "▁a")]
    assert pieces(tokenizer, tokens) == ["the", "", " a", ""]


def test_hidden_tokens_inside_a_character_leave_it_whole():
    tokenizer = TOKENIZERS["byte fallback"]
    tokens = [*bytes_of("€")[:1], *[1] * 20, *bytes_of("€")[1:]]
    assert "".join(pieces(tokenizer, tokens)) == tokenizer.decode(tokens) == "€"


@pytest.mark.parametrize("name", TOKENIZERS)
@given(tokens=st.lists(st.integers(0, 259), max_size=60), widths=widths)
def test_any_tokens_arrive(name, tokens, widths):
    """Bytes that are no text too: what they are shown as may depend on what comes later, the rest may not."""
    tokenizer = TOKENIZERS[name]
    whole = tokenizer.decode(tokens)
    joined = "".join(pieces(tokenizer, tokens, widths))
    if "\ufffd" not in whole:
        assert joined == whole
    final = RowText(tokenizer, {EOS}, skip_special_tokens=True)
    final.push([token for token in tokens if token != EOS])
    assert (not final.finish()) == (not whole)
    assert (not joined) == (not whole)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("kind", ["text", "noise", "silence", "one byte"])
def test_a_piece_costs_what_is_new(name, kind):
    """Whatever was written before."""
    tokens = {
        "text": (bytes_of("日a") * 2500)[:8000] if name == "byte fallback" else [70] * 8000,
        "noise": [4 + i * i % 251 for i in range(8000)],
        "silence": [1] * 8000,
        "one byte": [4 + 0xFF] * 8000 if name == "byte fallback" else [200] * 8000,
    }[kind]
    counting = Counting(TOKENIZERS[name])
    stream, most = TextStream(counting), 0
    for token in tokens:
        before = counting.decoded
        stream.push([token])
        most = max(most, counting.decoded - before)
    assert most <= 250
    assert counting.decoded <= 100 * len(tokens)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(
    text=st.text("abc é€", min_size=1, max_size=30),
    stop=st.lists(st.text("abc é€", min_size=1, max_size=4), max_size=4),
    widths=widths,
)
def test_row_texts_end_before_the_first_stop_text(name, text, stop, widths):
    """Whatever the blocks, and whether or not somebody reads the pieces."""
    tokenizer = TOKENIZERS[name]
    tokens = bytes_of(text) if name == "byte fallback" else tokenizer.encode(text).ids
    whole = tokenizer.decode(tokens)
    row, silent, given, i = RowText(tokenizer, {EOS}, stop), RowText(tokenizer, {EOS}, stop), [], 0
    kept = None
    while i < len(tokens) and kept is None:
        block = tokens[i : i + widths[0]]
        kept = row.push(block)
        assert silent.push(block) == kept
        i += len(block) if kept is None else kept
        given.append(row.piece(final=kept is not None))
    given.append(row.piece(final=True))
    ends = sorted((whole.index(each) + len(each), whole.index(each)) for each in stop if each in whole)
    # A character comes as a whole, so the stop text that is complete first has ended first; of several that
    # end at once, the one that began first.
    want = whole[: ends[0][1]] if ends else whole
    assert "".join(given) == row.text == silent.finish() == want
    assert (kept is not None) == bool(ends)
    assert all(part not in "".join(given) for part in stop)
    if kept is not None:
        assert tokenizer.decode(tokens[:i]) == whole[: ends[0][0]]


def test_a_stop_text_in_what_was_held_back_ends_the_row_too():
    """A token may hold a whole character and the beginning of another, which the row's end leaves open."""
    vocabulary = {"x": 0, "a": 1, "aâ": 2}  # "â" is the byte 0xE2, with which "€" begins
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    row = RowText(tokenizer, {EOS + 1}, ["a"])
    assert row.push([0]) is None
    assert row.push([2], final=True) == 1
    assert row.piece(final=True) == row.finish() == "x"
    going_on = RowText(tokenizer, {EOS + 1}, ["a"])
    assert going_on.push([0, 2]) is None, "the character may yet be completed"


def test_an_eos_is_no_text():
    tokenizer = TOKENIZERS["byte fallback"]
    row = RowText(tokenizer, {EOS, 4 + ord("!")})
    row.push([*bytes_of("hi"), 4 + ord("!")])
    assert row.piece(final=True) == "hi"


def test_control_tokens_are_read_as_text():
    tokenizer = TOKENIZERS["byte level"]
    plain = without_control_tokens(tokenizer)
    assert EOS in tokenizer.encode("a</s>").ids
    assert EOS not in plain.encode("a</s>").ids
    assert plain.decode(plain.encode("a</s>").ids) == "a</s>"
    assert EOS in tokenizer.encode("a</s>").ids, "the original is as it was"


def test_truncation_and_padding_are_never_applied(mini, tmp_path):
    """A tokenizer.json that was saved after training has both."""
    path, long, short = tmp_path / "tokenizer.json", "Ada has 12 apples and 12 pens. " * 3, "7"
    tokenizer = Tokenizer.from_file(str(mini / "tokenizer.json"))
    want = [tokenizer.encode(text).ids for text in (long, short)]
    assert len(want[0]) > 24 > len(want[1])
    tokenizer.enable_truncation(24)
    tokenizer.enable_padding(length=24)
    tokenizer.save(str(path))
    assert [len(Tokenizer.from_file(str(path)).encode(text).ids) for text in (long, short)] == [24, 24]
    loaded = load_tokenizer(SimpleNamespace(tokenizer_path=path, read_tokenizer=path.read_bytes))
    for each in (loaded, without_control_tokens(loaded)):
        assert [each.encode(text).ids for text in (long, short)] == want
