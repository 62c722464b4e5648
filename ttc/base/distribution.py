"""What the package is called on an index, where `ttc` is somebody else's, and how extras are installed."""

__all__ = ["DISTRIBUTION", "extra", "install"]

DISTRIBUTION = "twotower-compiler"


def extra(*names: str) -> str:
    """Return the package with these extras as a shell takes it."""
    return f"'{DISTRIBUTION}[{','.join(names)}]'"


def install(*extras: str, options: str = "") -> str:
    """Return the command that installs the package with these extras; `options` of pip go before its name."""
    return f"pip install {options}{' ' if options else ''}{extra(*extras)}"
