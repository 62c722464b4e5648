"""Weights of more than a protobuf file may have: what ttc adds to the library's memory, and that it shows how
far it is.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.foreign_weights import large_matmul
from tests.support.terminal import needs_terminal, on_terminal

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
ROOT = Path(__file__).parents[3]
LARGE = 2_150_000_000

# Everything that a build does before the library's builder is called, and the largest resident memory of
# each process. A child inherits the peak of the one that forked it, so that this one stays small, too.
_PLAN = """
import json, resource, sys
from pathlib import Path
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.planning import make_plan
plan = make_plan(Path(sys.argv[1]), None, BuildSettings(targets=("8.9",)))
assert not plan.problems, plan.problems
steps = []
(job,) = plan.jobs(lambda *step: steps.append(step))
lines = Path("/proc/self/status").read_text().splitlines()
own = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"own": own, "library": children, "steps": steps}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_our_share_of_memory_is_bounded(tmp_path):
    """2.15 GB under 3 GB: what the library's builder then takes is its own (docs/building.md)."""
    path = large_matmul(tmp_path, LARGE)
    done = subprocess.run(
        [sys.executable, "-c", _PLAN, str(path)], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True
    )
    found = json.loads(done.stdout)
    assert found["own"] < 500e6
    assert found["library"] < 500e6, "it maps the weights, and has not read them"
    done_bytes, all_bytes = zip(*((step[1], step[2]) for step in found["steps"]), strict=True)
    assert done_bytes[-1] == all_bytes[-1] > LARGE
    assert len(done_bytes) > 100, "and whoever waits sees how far the reading is"


@needs_terminal
def test_on_a_terminal_there_is_a_progress_bar(tmp_path):
    """For the reading of the weights and for what the library does."""
    path = large_matmul(tmp_path, 2**27)
    code, said, drawn = on_terminal(
        ["build", path, "--compute-capability", "8.9", "--no-cache"], columns=100, seconds=120
    )
    assert code == 0
    assert "m.engines: tensorrt-rtx" in said
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    bars = re.findall(r"(m(?:: [^━╸╺\r\n]*)?) [━╸╺]+ +(\d+)%", shown)
    assert "m: read" in {what for what, _ in bars}
    assert len({what for what, _ in bars}) > 2, "the library's own phases, too"
    shares = {int(share) for what, share in bars if what == "m: read"}
    assert all(0 <= share <= 100 for share in shares)
