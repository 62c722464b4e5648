"""What others wrote, on one line that no terminal obeys."""

import sys

from ttc.base.quoting import escaped, quoted


def test_controls_are_escaped() -> None:
    assert escaped("a\x1b[2J\nb\u202e\x9b\ud800é漢") == "a\\x1b[2J\\nb\\u202e\\x9b\\ud800é漢"
    assert escaped("a\nb\tc", kept="\n\t") == "a\nb\tc"


def test_numbers_that_have_no_text() -> None:
    assert quoted(10 ** (sys.get_int_max_str_digits() + 1)) == "a int too large to show"
