"""The process: where it listens, signals, how it drains, and what its exit code says.

SIGTERM or SIGINT: ready turns 503 at once, new work is refused, and what was accepted goes on for the drain
time; the socket stays open meanwhile, so that probes are answered. A second signal ends the process at once.
"""

import asyncio
import contextlib
import logging
import math
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import uvicorn

from ttc.errors import InputError
from ttc.serving.app import create_app
from ttc.serving.connections import connection_class
from ttc.serving.service.auth import Keys, read_keys
from ttc.serving.service.service import Phase, Service
from ttc.serving.service.settings import Settings

__all__ = ["EXIT_DEAD", "EXIT_UNFINISHED", "Server", "listen", "serve"]

# Exit codes beside 0, which is a drain that lost nothing.
EXIT_DEAD, EXIT_UNFINISHED = 71, 72
# How long a service whose engine is dead still says so.
_LAST_WORDS_SECONDS = 1.0
_BACKLOG, _OTHER_FILES = 2048, 512
# How long the engine's thread may keep the interpreter while the event loop wants it; of Python's own 5 ms a
# few would be most of the time that a refusal takes.
_SWITCH_SECONDS = 0.0005
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_EXAMPLE = (
    r'{"prompt": "Question: Tom has 8 boxes with 7 keys each. Tom gets 5 more. '
    r'How many keys does Tom have now?\nAnswer:"}'
)


def serve(settings: Settings, say: Callable[[str], None]) -> int:
    """Serve until a signal, or the engine's death; return the exit code.

    Args:
        settings: of the service.
        say: called with lines for the person who started it.

    Raises:
        TtcError: it could not start.
    """
    keys = Keys(None if settings.api_key_file is None else read_keys(Path(settings.api_key_file)))
    # One line for every scanner that speaks no HTTP would bury what matters.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    _allow_connections(settings.max_connections)
    sys.setswitchinterval(_SWITCH_SECONDS)
    with listen(settings.host, settings.port) as bound:
        service = Service(settings, keys)
        server = Server(service, bound, say)
        asyncio.run(server.serve(sockets=[bound]))
    if service.failure is not None:
        raise service.failure
    return server.exit_code


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound there.

    Raises:
        InputError: the port is in use, or the host is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except (OSError, UnicodeError) as fault:
        why = getattr(fault, "strerror", None) or fault
        raise InputError(f"cannot listen on {host}:{port} ({why}); choose another --port or --host") from None
    return bound


def _allow_connections(count: int) -> None:
    """Let the process open so many sockets beside its files, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Server(uvicorn.Server):
    """uvicorn's server with signals, drain and exit codes of our own.

    Attributes:
        exit_code: what the process should end with.
    """

    def __init__(self, service: Service, bound: socket.socket, say: Callable[[str], None]) -> None:
        settings = service.settings
        super().__init__(
            uvicorn.Config(
                create_app(service),
                http=connection_class(settings.max_connections, settings.client_seconds),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=math.ceil(settings.client_seconds),
                timeout_graceful_shutdown=2,
            )
        )
        self._service, self._say, self._address = service, say, bound.getsockname()[:2]
        self.exit_code = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Heed the signals while it serves, where that is in the main thread; uvicorn's own way would end by
        the signal, not by a code.
        """
        mine = _SIGNALS if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, self._signalled) for number in mine}
        life = asyncio.get_running_loop().create_task(self._live(), name="ttc-life")
        try:
            yield
        finally:
            life.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._service.phase is Phase.DRAINING:
            os._exit(128 + number)
        self._service.drain()

    async def _live(self) -> None:
        """Tell when it is ready; wait for the drain, or for the engine's death; end."""
        service, told = self._service, False
        while service.phase in (Phase.LOADING, Phase.READY):
            if service.phase is Phase.READY and not told:
                told = True
                self._tell()
            await asyncio.sleep(0.02)
        if service.phase is Phase.DRAINING:
            await self._drain()
        if service.phase is Phase.DEAD:
            self.exit_code = EXIT_DEAD
            if service.failure is None:
                await asyncio.sleep(_LAST_WORDS_SECONDS)
        self.should_exit = True

    async def _drain(self) -> None:
        service, clock = self._service, asyncio.get_running_loop().time
        self._say(f"draining: {service.in_flight} requests under way")
        end = clock() + service.settings.drain_seconds
        while service.in_flight and service.phase is Phase.DRAINING and clock() < end:
            await asyncio.sleep(0.02)
        if service.in_flight and service.phase is Phase.DRAINING:
            self.exit_code = EXIT_UNFINISHED
            self._say(f"the drain time is over; {service.in_flight} requests end unfinished")
            service.abandon("the service ended before this was finished")

    def _tell(self) -> None:
        host, port = self._address
        where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        name = self._service.settings.model_name
        self._say(f"listening on {where} (model {name}); ask it like this:")
        key = "" if self._service.settings.api_key_file is None else " -H 'Authorization: Bearer KEY'"
        self._say(f"  curl {where}/v1/completions{key} -d '{_EXAMPLE}'")
