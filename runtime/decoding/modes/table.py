"""The one list of modes: name → how a row of it is made."""

from collections.abc import Callable, Mapping
from typing import Protocol

from ttc.base.names import MODES
from ttc.model.config import ModelConfig
from ttc.runtime.decoding.modes.ar import Autoregressive
from ttc.runtime.decoding.modes.diffusion import Diffusion
from ttc.runtime.decoding.modes.lossless import DenoiserDrafts, Lossless
from ttc.runtime.decoding.modes.mock_ar import MockAutoregressive
from ttc.runtime.decoding.modes.prompt_lookup import LookedUp
from ttc.runtime.decoding.modes.speculative import Speculative
from ttc.runtime.decoding.options import CheckedOptions
from ttc.runtime.decoding.rows import Mode, Row
from ttc.runtime.decoding.speculative.policy import Policy
from ttc.runtime.interface.backend import Limits

__all__ = ["VERIFIED", "ModeTable", "RunsModes"]

# Modes that learn from the logits how many tokens of a block count.
VERIFIED = ("lossless", "prompt-lookup")


class RunsModes(Protocol):
    """What modes need to know of a backend."""

    config: ModelConfig
    limits: Limits | None
    graph_level: int | None


class ModeTable:
    """Makes the modes of rows on one backend."""

    def __init__(self, backend: RunsModes, policy: Callable[[CheckedOptions], Policy], room: int) -> None:
        """policy: options of a lossless row → how much it drafts.
        room: most tokens that a row may hold.
        """
        self._backend, self._policy, self._room = backend, policy, room
        self._makers: Mapping[str, Callable[[Row], Mode]] = {
            "diffusion": lambda row: Diffusion(backend.config.mask_token_id),
            "ar": lambda row: Autoregressive(),
            "mock-ar": lambda row: MockAutoregressive(),
            "lossless": self._lossless,
            "prompt-lookup": lambda row: Speculative(LookedUp(room)),
        }
        assert tuple(self._makers) == MODES, "every mode has a maker"

    def __call__(self, row: Row) -> Mode:
        """Return the mode of a row that is about to start."""
        return self._makers[row.request.options.mode](row)

    def _lossless(self, row: Row) -> Mode:
        policy = self._policy(row.request.options)
        # Backends that keep buffers and graphs for every width, or were built for some widths only, are given
        # the whole block.
        any_width = self._backend.limits is None and self._backend.graph_level is None
        return Lossless(
            DenoiserDrafts(policy, self._backend.config.mask_token_id, any_width, self._room), policy
        )
