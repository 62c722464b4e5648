"""What is simulated: a model on a machine, what it takes on, and how its rows behave."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ttc.errors import InputError
from ttc.model.config import ModelConfig
from ttc.planning.simulation.arrivals import Load, OpenLoad, Visit
from ttc.planning.simulation.behaviour import Behaviour, Drawn, StepsPerBlock
from ttc.planning.simulation.costs import Costs
from ttc.planning.simulation.device import SimulatedDevice
from ttc.planning.simulation.drive import Span, drive
from ttc.plugins.counter_rng import row_key
from ttc.runtime.decoding.core import Core
from ttc.runtime.decoding.limits import SHARED_CAPACITY
from ttc.runtime.decoding.modes.table import ModeTable
from ttc.runtime.decoding.options import CheckedOptions, GenerationOptions, check_options
from ttc.runtime.decoding.plan import CoreLimits, Policy
from ttc.runtime.decoding.request import RowRequest
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.speculative.policy import FixedPolicy
from ttc.runtime.gpu.lengths import padded_length
from ttc.runtime.interface.backend import Limits
from ttc.runtime.interface.sizes import CPU_SIZES, GPU_SIZES

__all__ = ["SIMULATED_MODES", "Server", "Simulation", "in_turn"]

# Prompt lookup drafts from the text, of which a simulation has none.
SIMULATED_MODES = ("ar", "diffusion", "lossless", "mock-ar")


@dataclass(frozen=True, slots=True)
class Server:
    """One replica.

    Attributes:
        config: the model.
        costs: seconds of its calls.
        limits: what its core takes on at once.
        chunk: prompt tokens of one piece.
        most_tokens: that one row may hold.
        max_new_tokens: that every request asks for at most; the core reserves them.
        block_size: of diffusion and of drafts.
        steps: denoise steps of a block of diffusion.
        draft_steps: denoise steps of a draft of lossless mode.
        acceptance: the probability that a drafted token is accepted if all before it were.
        gpu: the device is a GPU: calls are padded to few lengths, drafts to a whole block.
        shares_state: rows sit in one state and share calls, as where a GPU computes; else there is one per
            capacity.
        policy: what a tick goes by.
    """

    config: ModelConfig
    costs: Costs
    limits: CoreLimits
    chunk: int
    most_tokens: int
    max_new_tokens: int
    steps: StepsPerBlock
    block_size: int = 16
    draft_steps: int = 2
    acceptance: float = 0.9
    gpu: bool = True
    shares_state: bool = True
    policy: Policy = field(default_factory=Policy)

    def simulate(self, load: Load) -> Span:
        """Return what goes by until a load is served."""
        return Simulation(self).run(load)


@dataclass(slots=True)
class _Facts:
    """What the modes ask of a backend."""

    config: ModelConfig
    limits: Limits | None
    graph_level: int | None


class Simulation:
    """A core of the runtime over a simulated device.

    Attributes:
        core: the core.
        device: what it calls.
        modes: makes the modes of its rows.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        config = server.config
        taken = (config.mask_token_id, *config.eos_token_ids)
        self._word = next(token for token in range(config.vocab_size) if token not in taken)
        self._options: dict[str, CheckedOptions] = {}
        self.device = SimulatedDevice(
            server.costs,
            server.most_tokens,
            config.mask_token_id,
            self._word,
            SHARED_CAPACITY if server.shares_state else 0,
            GPU_SIZES if server.gpu else CPU_SIZES,
            (lambda length: padded_length(length, 2 * length, None)) if server.gpu else lambda length: length,
        )
        self.modes = ModeTable(
            _Facts(config, None, 1 if server.gpu else None),
            lambda options: FixedPolicy(options.draft_steps or server.draft_steps),
            server.most_tokens,
        )
        self.core = Core(self.device, self.modes, server.limits, server.chunk, policy=server.policy)

    def run(self, load: Load) -> Span:
        """Serve a load; return what went by."""
        clock = self.device.clock
        return drive(self.core, load, self.submit, lambda until: clock.advance(until - clock.now()))

    def submit(self, visit: Visit) -> Row:
        """Give the core one request, which behaves as drawn."""
        server = self._server
        drawn = Drawn(
            visit.seed,
            visit.answer_tokens,
            server.block_size,
            None if visit.mode == "lossless" else server.steps,
            server.acceptance,
        )
        return self.enter(self.request(visit), drawn)

    def enter(self, request: RowRequest, behaviour: Behaviour) -> Row:
        """Give the core a request with this behaviour."""
        row = self.core.submit(request)
        self.device.behaviours[row.id] = behaviour
        return row

    def request(self, visit: Visit) -> RowRequest:
        """Return what the core is asked for."""
        server, options = self._server, self._options.get(visit.mode)
        if options is None:
            options = self._options[visit.mode] = self._checked(visit.mode)
        if visit.prompt_tokens + server.max_new_tokens > server.most_tokens:
            raise InputError(
                f"a prompt of {visit.prompt_tokens} tokens and {server.max_new_tokens} new ones; a row may "
                f"hold {server.most_tokens}"
            )
        return RowRequest(
            prompt=(self._word,) * visit.prompt_tokens,
            options=options,
            row_key=row_key(visit.seed % 2**63, 0),
            max_new_tokens=server.max_new_tokens,
            owner=visit.owner,
        )

    def _checked(self, mode: str) -> CheckedOptions:
        if mode not in SIMULATED_MODES:
            raise InputError(f"mode {mode!r} cannot be simulated; valid: {', '.join(SIMULATED_MODES)}")
        server = self._server
        asked = GenerationOptions(
            mode=mode,
            max_new_tokens=server.max_new_tokens,
            block_size=server.block_size,
            steps=server.block_size,
            draft_steps=min(server.draft_steps, server.block_size),
            # A model without one gets one here: answers must end somewhere.
            eos_token_id=server.config.eos_token_ids or (self._word + 1,),
        )
        return check_options(asked, server.config)


def in_turn(server: Server, visits: Sequence[Visit], replicas: int) -> list[Span]:
    """Return what goes by at so many replicas that get the requests in turn."""
    return [server.simulate(OpenLoad(visits[i::replicas])) for i in range(replicas)]
