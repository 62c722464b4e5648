"""Closing what may be broken."""

import logging
from collections.abc import Callable, Iterable

__all__ = ["close_all"]

logger = logging.getLogger(__name__)


def close_all(steps: Iterable[Callable[[], object]]) -> None:
    """Take every step, whatever the one before raised, which is logged: the rest is to be closed too."""
    for step in steps:
        try:
            step()
        except Exception as fault:  # cuda.core, TensorRT and torch have no common base class
            logger.warning(f"while closing: {type(fault).__name__}: {fault}")
