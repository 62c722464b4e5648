"""Watching what a process and all that it starts ask of the system, by strace."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

__all__ = ["connections", "has_tracer", "traced", "written"]

_WATCHED = (
    "connect,open,openat,openat2,creat,mkdir,mkdirat,mknod,mknodat,rename,renameat,renameat2,link,linkat,"
)
_WATCHED += "symlink,symlinkat,truncate,unlink,unlinkat,rmdir"
_CALL = re.compile(r"(?:\[pid +\d+\] |\d+ +)?(\w+)\((.*)\) = (-?\d+)")
_PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')


def has_tracer() -> bool:
    """Whether there is one."""
    return shutil.which("strace") is not None


def traced(words: Sequence[str], log: Path) -> list[str]:
    """Return the command that runs these words and writes what they ask into a log."""
    watched = ("-f", "-qq", "-y", "--seccomp-bpf", "-s", "4096", "-e", f"trace={_WATCHED}", "-o", str(log))
    return ["strace", *watched, *words]


def connections(log: Path) -> list[str]:
    """The attempts to reach another machine, or a name service of this one, through a socket."""
    return [
        line
        for name, line, _ in _calls(log)
        if name == "connect" and "AF_UNIX" not in line and "AF_NETLINK" not in line
    ]


def written(log: Path) -> set[str]:
    """The paths of everything that was opened for writing, made, renamed or removed, without faults."""
    found = set()
    for name, line, result in _calls(log):
        if result < 0 or name == "connect":
            continue
        if name.startswith("open") and not re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", line):
            continue
        for folder, path in _PATH.findall(line):
            found.add(str(Path(folder or "/") / path))
    return found


def _calls(log: Path) -> list[tuple[str, str, int]]:
    """Name, arguments and result of every call that ended."""
    found, begun = [], dict[str, str]()
    for line in log.read_text(errors="replace").splitlines():
        process, _, said = line.partition(" ")
        said = said.strip()
        if said.endswith("<unfinished ...>"):
            begun[process] = said.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", said):
            said = begun.pop(process, "") + resumed[1]
        if call := _CALL.match(said):
            found.append((call[1], call[2], int(call[3])))
    return found
