"""What a build of an ONNX file of another exporter will do. Nothing of TwoTower applies to it: the library
says what the network is and what it can build, and the user gives sizes for the inputs whose sizes are open.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttc import __version__
from ttc.errors import BackendError
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.capabilities import foreign_target_problems
from ttc.exporter.engines.engine_spec import EngineSpec
from ttc.exporter.engines.foreign_ranges import input_records, output_records
from ttc.exporter.engines.graph_job import GraphJob
from ttc.exporter.engines.network import Network
from ttc.exporter.engines.onnx_file import OnnxFile, tensors_of
from ttc.exporter.engines.trial import Trial
from ttc.formats.atomic_folder import folder_writer
from ttc.formats.engines import ENGINES, EngineRecord, EnginesManifest, TensorRecord

__all__ = ["ForeignPlan", "examine", "make_foreign_plan"]

_MAX_NAME = 100


@dataclass(frozen=True, slots=True)
class ForeignPlan:
    """A build of a foreign file that was checked.

    Attributes:
        file: the model.
        output: folder of the engine.
        settings: the options, as they were given.
        targets: compute capabilities; empty: what the backend builds for by default.
        version: the backend's; None: it is not installed.
        network: what the library made of the file; None where it was not asked or refused it.
        inputs: with their ranges; of use only where there are no problems.
        tried: whether the library built it on trial; None where it was not asked, or took too long to tell.
        problems: why the build is not possible, one sentence each.
        notes: what was chosen for the user, one sentence each.
    """

    file: OnnxFile
    output: Path
    settings: BuildSettings
    targets: tuple[str, ...]
    version: str | None
    network: Network | None
    inputs: tuple[TensorRecord, ...]
    tried: bool | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def role(self) -> str:
        """Return the name of the graph and of its engine: that of the file, without its ending."""
        return _role(self.file)

    @property
    def outputs(self) -> tuple[TensorRecord, ...]:
        """What the network gives."""
        return () if self.network is None else output_records(self.network)

    def jobs(self, progress: Callable[[str, int, int], None]) -> tuple[GraphJob, ...]:
        """Return the work, once all weights are read for their digest."""
        assert self.network is not None, "a build with problems was begun"
        reading = f"{self.role}: read"
        about = {
            "graph": self.file.digest(lambda done, total: progress(reading, done, total)),
            "role": self.role,
            "dtype": None,
            "inputs": [dataclasses.asdict(tensor) for tensor in self.inputs],
            "tf32": self.settings.tf32,
            "form": self.settings.form,
            "baked": True,
        }
        return (GraphJob(self.role, about, lambda: ([self._spec()], None), self.file.check_unchanged),)

    def manifest(
        self,
        jobs: Sequence[GraphJob],
        engines: Mapping[str, EngineRecord],
        programs: Mapping[str, str],
        fixed_addresses: bool,
    ) -> EnginesManifest:
        """Return the manifest of what was built."""
        return EnginesManifest(
            ttc_version=__version__,
            backend=self.settings.backend,
            backend_version=str(self.version),
            form=self.settings.form,
            targets=self.targets,
            compute_dtype=None,
            profile={},
            baked=True,
            fixed_addresses=fixed_addresses,
            sources={job.role: job.about["graph"] for job in jobs},
            kernels={},
            engines=engines,
            programs=programs,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what `ttc build --dry-run --json` prints."""
        return {
            "source": str(self.file.path),
            "output": str(self.output),
            "backend": self.settings.backend,
            "backend_version": self.version,
            "form": self.settings.form,
            "targets": list(self.targets),
            "size_bytes": self.file.size_bytes,
            "network": None if self.network is None else self.network.to_dict(),
            "inputs": [dataclasses.asdict(tensor) for tensor in self.inputs],
            "tried": self.tried,
            "problems": list(self.problems),
            "notes": list(self.notes),
        }

    def _spec(self) -> EngineSpec:
        return _spec(self.file, self.inputs, self.outputs)


def make_foreign_plan(
    file: OnnxFile,
    output: Path,
    settings: BuildSettings,
    version: str | None,
    problems: list[str],
    try_seconds: float,
) -> ForeignPlan:
    """Ask the library about the file, and look for everything that will not work.

    Args:
        file: the model.
        output: folder of the engine.
        settings: the options of the build.
        version: the backend's; None: it is not installed.
        problems: what was found already.
        try_seconds: how long the library may try to build it, after it was parsed; 0: it does not try.
    """
    targets, dtypes = settings.targets or (), {tensor.data_type for tensor in tensors_of(file.proto)}
    problems = [*problems, *_setting_problems(file, settings)]
    problems.extend(foreign_target_problems(dtypes, settings.backend, targets))
    notes: list[str] = []
    network: Network | None = None
    inputs: tuple[TensorRecord, ...] = ()
    tried = None
    if version is not None and not problems:
        options = settings.compiler_options(targets)
        with _workspace() as folder, Trial(options, folder) as trial:
            network, inputs, tried = examine(file, settings, trial, folder, problems, try_seconds)
    if try_seconds and tried is None and network is not None and not problems:
        notes.append(
            f"the library had not built it after {try_seconds:g} s; whether it does only the build can tell"
        )
    return ForeignPlan(
        file=file,
        output=output,
        settings=settings,
        targets=targets,
        version=version,
        network=network,
        inputs=inputs,
        tried=tried,
        problems=tuple(dict.fromkeys(problems)),
        notes=tuple(notes),
    )


def examine(
    file: OnnxFile,
    settings: BuildSettings,
    trial: Trial,
    folder: Path,
    problems: list[str],
    try_seconds: float,
) -> tuple[Network | None, tuple[TensorRecord, ...], bool | None]:
    """Ask the library about a file.

    Args:
        file: the model.
        settings: the options of the build.
        trial: the process that answers.
        folder: an empty one that both can reach.
        problems: gets what is in the way.
        try_seconds: as of `make_foreign_plan`.

    Returns:
        The network, None where the library refuses it; its inputs with their ranges; whether it was built.
    """
    network: Network | None = None
    inputs: tuple[TensorRecord, ...] = ()
    try:
        file.write(folder)
        network = trial.parse(_role(file), folder)
        inputs = input_records(network, settings.shapes, problems)
        if try_seconds and not problems:
            spec = _spec(file, inputs, output_records(network))
            return network, inputs, trial.builds(spec, folder, try_seconds) or None
    except BackendError as fault:
        problems.append(str(fault))
    return network, inputs, None


def _role(file: OnnxFile) -> str:
    """Return the file's name without its ending, as engines and what lies beside them may be called."""
    plain = (c if c.isprintable() and c not in "\\:" else "_" for c in file.path.stem)
    return "".join(plain)[:_MAX_NAME]


def _spec(file: OnnxFile, inputs: tuple[TensorRecord, ...], outputs: tuple[TensorRecord, ...]) -> EngineSpec:
    role = _role(file)
    return EngineSpec(role, role, inputs, outputs, file.write, is_ours=False)


def _setting_problems(file: OnnxFile, settings: BuildSettings) -> Iterator[str]:
    """Give the options that are for models of ttc alone."""
    if settings.form == "cut":
        yield f"{file.path}: not exported by ttc, so it has no ops to cut at; build it with --form whole"
    if settings.profile is not None:
        yield (
            f"{file.path}: not exported by ttc, so --profile says nothing of it; give sizes with "
            "--min-shapes, --opt-shapes and --max-shapes, and targets with --compute-capability"
        )


@contextlib.contextmanager
def _workspace() -> Iterator[Path]:
    """Give a folder for a trial; what a killed one left, the next one deletes."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    with folder_writer(Path(tempfile.gettempdir()) / f"ttc-trial-{user}", True, ENGINES) as draft:
        yield draft.path
