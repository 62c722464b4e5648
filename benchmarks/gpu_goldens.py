"""Golden tokens through the GPU path of torch as `ttc.load` builds it, with the real kernels in Triton's
interpreter: only the device is a fake one.

    python -m benchmarks.gpu_goldens [--checkpoints tiny_c …] [--modes ar …] [--levels 2 …] [--cases N]
        [--tokens N]

Diffusion is compared with recorded runs, the other modes with torch on the CPU, over rows of different
lengths that come and go. A line of JSON for each; exit status 1 where tokens differ. Minutes for each case:
`make test` has a sample of it (`tests/runtime/gpu/test_kernels_wired.py`).
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["TRITON_INTERPRET"] = "1"  # before the first kernel is imported

import ttc
from tests.support.fake_device import with_loop_kernel
from tests.support.golden import CHECKPOINTS, golden
from tests.support.recorded import options_of, recorded, tokens_of
from ttc.model.bundle import Bundle
from ttc.model.weights import CONTEXT, DENOISER
from ttc.runtime.backends.torch import load
from ttc.runtime.engine import Engine
from ttc.runtime.gpu.pooled_backend import PooledBackend
from ttc.runtime.interface.settings import LoadSettings

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
MODES = ("diffusion", "ar", "mock-ar", "lossless")
PROMPTS = ([5, 6, 7], [9] * 18, [4, 8])  # of less than a page, of more, and one that joins when one has left


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--checkpoints", nargs="+", default=list(CHECKPOINTS), choices=CHECKPOINTS)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--levels", nargs="+", type=int, default=[0, 1, 2], choices=[0, 1, 2])
    parser.add_argument("--cases", type=int, default=4, help="recorded runs of diffusion, of each checkpoint")
    parser.add_argument("--tokens", type=int, default=8, help="new tokens of a row in the other modes")
    given = parser.parse_args()
    well = True
    with tempfile.TemporaryDirectory() as folder:
        for name in given.checkpoints:
            bundle = ttc.export(GOLDEN / name, Path(folder) / f"{name}.bundle", "float32")
            for level in given.levels:
                with on_fake_gpu(bundle, level) as engine:
                    for mode in given.modes:
                        cases = diffusion(engine, name, given.cases) if mode == "diffusion" else None
                        for line in cases or compared(engine, bundle, mode, given.tokens):
                            head = {"checkpoint": name, "level": level, "mode": mode}
                            print(json.dumps(head | line), flush=True)
                            well &= bool(line["same"])
    sys.exit(not well)


@contextmanager
def on_fake_gpu(bundle: Path, level: int) -> Iterator[Engine]:
    """Load a bundle as on a GPU with all packages."""
    features = load.CudaFeatures(kernels=True, resident=True, capture_problem=None, notes=())
    settings = LoadSettings(graph_level=level)
    with (
        Bundle.open(bundle) as opened,
        mock.patch.object(load, "CudaDevice", return_value=with_loop_kernel()),
        mock.patch.object(load.torch.cuda, "synchronize"),
        Engine(load.on_cuda(opened, 0, features, settings, (CONTEXT, DENOISER), PooledBackend)) as engine,
    ):
        yield engine


def diffusion(engine: Engine, name: str, count: int) -> Iterator[dict[str, Any]]:
    """Yield recorded runs of one row."""
    g = golden(name)
    for case_name, case in recorded(name, count).items():
        start = time.perf_counter()
        result = engine.generate(g.prompt(case)[0].tolist(), options_of(case))
        same = list(result.token_ids) == tokens_of(g, case_name)
        yield {"case": case_name, "same": same, **_ran(result, start)}


def compared(engine: Engine, bundle: Path, mode: Any, tokens: int) -> Iterator[dict[str, Any]]:
    """Yield one call of three rows, the second of which ends first."""
    prompts = [
        ttc.Request(prompt, max_new_tokens=count)
        for prompt, count in zip(PROMPTS, (tokens, 1, tokens), strict=True)
    ]
    start = time.perf_counter()
    got = engine.generate(prompts, mode=mode, stop_at_eos=False)
    with ttc.load(bundle, "torch", device="cpu") as plain:
        want = plain.generate(prompts, mode=mode, stop_at_eos=False)
    same = [result.token_ids for result in got] == [result.token_ids for result in want]
    yield {"case": "three rows", "same": same, **_ran(got[0], start)}


def _ran(result: Any, start: float) -> dict[str, Any]:
    return {
        "graph_level": int(result.stats.graph_level),
        "notes": list(result.stats.notes),
        "seconds": round(time.perf_counter() - start, 1),
    }


if __name__ == "__main__":
    main()
