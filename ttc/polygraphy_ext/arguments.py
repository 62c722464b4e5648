"""The options that `ttc` adds to `polygraphy run`.

Polygraphy takes a class's docstring for the text of `--help`: its first line is "Title: what the options are
about", and it lists what the class depends on.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from polygraphy.logger import G_LOGGER
from polygraphy.tools.args import ComparatorCompareArgs, DataLoaderArgs, ModelArgs
from polygraphy.tools.args import util as args_util
from polygraphy.tools.args.base import BaseArgs, BaseRunnerArgs
from polygraphy.tools.script import make_invocable

from ttc.base.quoting import escaped
from ttc.errors import InputError, TtcError
from ttc.formats.manifest import MANIFEST_FILE
from ttc.model.bundle import Bundle
from ttc.polygraphy_ext import compare
from ttc.polygraphy_ext.inputs import GRAPHS, LOOP
from ttc.polygraphy_ext.runners import REFERENCE

__all__ = ["argument_groups"]


def argument_groups() -> list[BaseArgs]:
    """Return what the entry point gives Polygraphy."""
    return [TtcBundleArgs(), TtcRunnerArgs(), TtcReferenceArgs(), TtcLoopArgs(), TtcLoopReferenceArgs()]


class TtcBundleArgs(BaseArgs):  # type: ignore[misc]
    """ttc Bundles: running the graphs of a ttc bundle.

    Depends on:

        - ModelArgs
        - DataLoaderArgs
        - ComparatorCompareArgs
    """

    def add_parser_args_impl(self) -> None:
        """Add the options that the runners share."""
        self.group.add_argument(
            "--ttc-graph",
            choices=GRAPHS,
            default=None,
            help="The tower to run where the model is a bundle's folder; the denoiser if not given",
        )
        self.group.add_argument(
            "--ttc-backend", default=None, help="The ttc backend that --ttc and --ttc-loop run on"
        )
        self.group.add_argument("--ttc-device", default=None, help="Its device: cpu, cuda, cuda:N")
        self.group.add_argument(
            "--ttc-trust",
            default=None,
            help="PEM file of the public key that must have signed it, and its engines",
        )
        self.group.add_argument(
            "--ttc-max-new-tokens", type=int, default=None, help="Tokens of --ttc-loop; 32 if not given"
        )
        self.group.add_argument(
            "--ttc-compare",
            choices=list(compare.FUNCTIONS),
            default=None,
            help="Compare by top-1 agreement of logits, or by the drift of confidences",
        )

    def parse_impl(self, args: Any) -> None:
        """Take a bundle's folder, or one of its files, for the model, and give it inputs that fit."""
        get = args_util.get
        self.backend = get(args, "ttc_backend") or "onnxruntime"
        self.device = get(args, "ttc_device")
        self.trust = get(args, "ttc_trust")
        self.max_new_tokens = get(args, "ttc_max_new_tokens") or 32
        self.bundle, self.graph = None, get(args, "ttc_graph") or "denoiser"
        model = self.arg_groups[ModelArgs]
        if model.path is None:
            return
        path = os.path.abspath(model.path)
        folder = path if os.path.isdir(path) else os.path.dirname(path)
        if not os.path.isfile(os.path.join(folder, MANIFEST_FILE)):
            return
        self.bundle = folder
        with _refusals(), Bundle.open(folder, trust=self.trust) as bundle:
            roles = {name: role for role, name in bundle.manifest.graphs.items()}
            if path != folder:
                self.graph = roles.get(os.path.basename(path), self.graph)
            elif not (set(get(args, "runners") or ()) & {"ttc-loop", "ttc-loop-ref"}):
                model.path = str(bundle.graph_path(self.graph))
                model.model_type = ModelArgs.ModelType("onnx")
        self._fit_inputs(LOOP if _has_loop(get(args, "runners") or ()) else self.graph)
        chosen = get(args, "ttc_compare")
        if chosen is not None:
            comparison = self.arg_groups[ComparatorCompareArgs]
            comparison.compare_func_script = os.path.abspath(compare.__file__)
            comparison.compare_func_name = chosen

    def _fit_inputs(self, graph: str) -> None:
        """Replace Polygraphy's random inputs, which no tower can be given, unless others were asked for."""
        loader = self.arg_groups[DataLoaderArgs]
        if loader.is_using_random_data() and graph in (*GRAPHS, LOOP):
            self.arg_groups[DataLoaderArgs] = BundleInputsArgs(loader, self.bundle, graph, self.trust)

    def runner_arguments(self, option: str) -> str:
        """Return the bundle, for a runner that was chosen by this option; without one that is refused."""
        with _refusals():
            if self.bundle is None:
                raise InputError(
                    f"--{option} needs a ttc bundle, and {self.arg_groups[ModelArgs].path} is not one; "
                    "give a bundle's folder, or one of its .onnx files, as the model"
                )
        return str(self.bundle)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Refuse as Polygraphy does: a logged line, and an exception its tools end on without a traceback."""
    try:
        yield
    except TtcError as fault:
        G_LOGGER.critical(escaped(str(fault)))


class BundleInputsArgs(DataLoaderArgs):  # type: ignore[misc]
    """Data Loader: inputs that a tower of a ttc bundle can be given."""

    def __init__(self, loader: DataLoaderArgs, bundle: str | None, graph: str, trust: str | None) -> None:
        super().__init__()
        self.__dict__.update(loader.__dict__)
        self._bundle, self._bundle_graph, self._trust = bundle, graph, trust

    def add_to_script_impl(self, script: Any, user_input_metadata_str: Any = None) -> Any:
        """Write the data loader into Polygraphy's script."""
        script.add_import(imports=["BundleInputs"], frm="ttc.polygraphy_ext.inputs")
        return script.set_data_loader(
            make_invocable(
                "BundleInputs",
                self._bundle,
                self._bundle_graph,
                iterations=self.iterations,
                seed=self.seed,
                trust=self._trust,
            )
        )


class TtcRunnerArgs(BaseRunnerArgs):  # type: ignore[misc]
    """ttc Inference: running a tower on a ttc backend.

    Depends on:

        - TtcBundleArgs
    """

    def get_name_opt_impl(self) -> tuple[str, str]:
        return "a ttc backend", "ttc"

    def add_to_script_impl(self, script: Any) -> None:
        """Write the runner into Polygraphy's script."""
        bundle = self.arg_groups[TtcBundleArgs]
        script.add_import(imports=["TowerRunner"], frm="ttc.polygraphy_ext.runners")
        path = bundle.runner_arguments("ttc")
        script.add_runner(
            make_invocable(
                "TowerRunner",
                path,
                bundle.graph,
                backend=bundle.backend,
                device=bundle.device,
                trust=bundle.trust,
            )
        )


class TtcReferenceArgs(BaseRunnerArgs):  # type: ignore[misc]
    """ttc Reference: running a tower in plain torch, in float32.

    Depends on:

        - TtcBundleArgs
    """

    def get_name_opt_impl(self) -> tuple[str, str]:
        return "ttc's reference, the towers in plain torch", "ttc-ref"

    def add_to_script_impl(self, script: Any) -> None:
        """Write the runner into Polygraphy's script."""
        bundle = self.arg_groups[TtcBundleArgs]
        script.add_import(imports=["TowerRunner"], frm="ttc.polygraphy_ext.runners")
        path = bundle.runner_arguments("ttc-ref")
        script.add_runner(
            make_invocable("TowerRunner", path, bundle.graph, backend=REFERENCE, trust=bundle.trust)
        )


class TtcLoopArgs(BaseRunnerArgs):  # type: ignore[misc]
    """ttc Generation: running a whole generation on a ttc backend.

    Depends on:

        - TtcBundleArgs
    """

    backend: str | None = None

    def get_name_opt_impl(self) -> tuple[str, str]:
        return "a whole generation on a ttc backend", "ttc-loop"

    def add_to_script_impl(self, script: Any) -> None:
        """Write the runner into Polygraphy's script."""
        bundle = self.arg_groups[TtcBundleArgs]
        script.add_import(imports=["LoopRunner"], frm="ttc.polygraphy_ext.runners")
        backend = self.backend or bundle.backend
        script.add_runner(
            make_invocable(
                "LoopRunner",
                bundle.runner_arguments(self.get_name_opt_impl()[1]),
                backend=backend,
                device=None if self.backend else bundle.device,
                max_new_tokens=bundle.max_new_tokens,
                trust=bundle.trust,
            )
        )


class TtcLoopReferenceArgs(TtcLoopArgs):
    """ttc Generation Reference: running a whole generation in plain torch, in float32.

    Depends on:

        - TtcBundleArgs
    """

    backend = REFERENCE

    def get_name_opt_impl(self) -> tuple[str, str]:
        return "a whole generation on ttc's reference", "ttc-loop-ref"


def _has_loop(runners: Any) -> bool:
    return any(str(runner).startswith("ttc-loop") for runner in runners)
