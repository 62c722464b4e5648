"""The errors `ttc` raises, one tree.

    TtcError
    ├── InputError            an argument, a prompt or an option is not valid
    │   └── CapacityError     valid, but more tokens than the context state can hold
    ├── CheckpointError       the checkpoint folder or one of its files is not what it should be
    ├── BundleError           the bundle folder or one of its files is not what it should be
    │   └── DigestError       a file is not the file that was exported
    ├── ExportError           a checkpoint could not be turned into a bundle
    ├── BackendError          a backend cannot do what was asked
    │   ├── DeviceMemoryError        … because a GPU has too little memory free
    │   ├── EngineDead               … because it failed before; nothing more will come of it
    │   └── MissingDependencyError   … because a package is not installed
    ├── DeadlineExceeded      a request took longer than it was given
    ├── NumericsError         the model computed NaN or infinity
    └── QueueFull             too much is waiting already; ask again later

Every message says what was wrong, the value, what is valid, and what to do. A bug of our own is never one of
these.
"""

__all__ = [
    "BackendError",
    "BundleError",
    "CapacityError",
    "CheckpointError",
    "DeadlineExceeded",
    "DeviceMemoryError",
    "DigestError",
    "EngineDead",
    "ExportError",
    "InputError",
    "MissingDependencyError",
    "NumericsError",
    "QueueFull",
    "TtcError",
]


class TtcError(Exception):
    """Base of every error a user can cause or mend."""


class InputError(TtcError):
    """An argument, a prompt or an option is not valid."""


class CapacityError(InputError):
    """More tokens than the context state can hold."""


class CheckpointError(TtcError):
    """The checkpoint folder or one of its files is not what it should be."""


class BundleError(TtcError):
    """The bundle folder or one of its files is not what it should be."""


class DigestError(BundleError):
    """A file of a bundle, or a checkpoint file under it, is not the one that was exported."""


class ExportError(TtcError):
    """A checkpoint could not be turned into a bundle."""


class BackendError(TtcError):
    """A backend cannot do what was asked of it."""


class DeviceMemoryError(BackendError):
    """A GPU has too little memory free for what was asked; nothing of it stays allocated."""


class MissingDependencyError(BackendError):
    """A backend or command needs a package that is not installed."""


class NumericsError(TtcError):
    """The model computed NaN or infinity where a number was due."""


class DeadlineExceeded(TtcError):
    """A request took longer than it was given."""


class EngineDead(BackendError):
    """An engine that serves many callers has failed; every request of it ends by this."""


class QueueFull(TtcError):
    """Too much is waiting already. Attribute: `retry_after`, seconds after which it is worth asking again."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
