"""The miniature's tokenizer: single bytes, digits one by one, and the words of its problems."""

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

__all__ = ["BOS", "EOS", "MASK", "PAD", "SPECIAL", "build"]

SPECIAL = ("<pad>", "<s>", "</s>", "<mask>")
PAD, BOS, EOS, MASK = range(4)


def build(words: Sequence[str]) -> Tokenizer:
    """The tokenizer with these words, leading spaces included: specials, bytes, words, in this order of ids.

    There are no merges: a word of the vocabulary is one token, everything else falls into bytes. Texts begin
    with `<s>`.
    """
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = [byte_level.pre_tokenize_str(word)[0][0] for word in dict.fromkeys(words)]
    entries = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *spelled]
    tokenizer = Tokenizer(
        models.BPE(vocab={t: i for i, t in enumerate(entries)}, merges=[], ignore_merges=True)
    )
    pieces = Regex(r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(pieces, "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer
