"""The options that a type checker knows are those that there are, with their types."""

import typing

from ttc.base.names import BACKENDS, BackendName, Mode
from ttc.runtime.decoding.option_types import OneTextOptions, Options
from ttc.runtime.decoding.options import GenerationOptions


def test_the_checkers_options_are_the_options() -> None:
    told, real = typing.get_type_hints(Options), typing.get_type_hints(GenerationOptions)
    assert told.pop("mode") is Mode
    assert real.pop("mode") is str  # a mode from a file is read there too, and checked when it is used
    assert told == real
    assert set(typing.get_type_hints(OneTextOptions)) == {*told, "mode"} - {"n"}


def test_the_checkers_backends_are_the_backends() -> None:
    assert typing.get_args(BackendName) == BACKENDS
