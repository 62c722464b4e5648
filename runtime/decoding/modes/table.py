"""The one list of modes: name → how a row of it is made."""

from collections.abc import Callable, Mapping

from ttc.base.names import MODES
from ttc.runtime.decoding.modes.ar import Autoregressive
from ttc.runtime.decoding.modes.diffusion import Diffusion
from ttc.runtime.decoding.modes.lossless import DenoiserDrafts, Lossless
from ttc.runtime.decoding.modes.mock_ar import MockAutoregressive
from ttc.runtime.decoding.modes.prompt_lookup import LookedUp
from ttc.runtime.decoding.modes.speculative import Speculative
from ttc.runtime.decoding.rows import Mode, Row
from ttc.runtime.decoding.speculative.policy import DraftPolicies
from ttc.runtime.interface.backend import Backend

__all__ = ["VERIFIED", "ModeTable"]

# Modes that learn from the logits how many tokens of a block count.
VERIFIED = ("lossless", "prompt-lookup")


class ModeTable:
    """Makes the modes of rows on one backend. `room`: most tokens that a row may hold."""

    def __init__(self, backend: Backend, drafts: DraftPolicies, room: int) -> None:
        self._backend, self._drafts, self._room = backend, drafts, room
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
        policy = self._drafts.policy(self._backend, row.request.options, self._room)
        # Backends that keep buffers and graphs for every width, or were built for some widths only, are given
        # the whole block.
        any_width = self._backend.limits is None and self._backend.graph_level is None
        return Lossless(
            DenoiserDrafts(policy, self._backend.config.mask_token_id, any_width, self._room), policy
        )
