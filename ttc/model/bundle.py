"""A bundle as everybody opens it: its files (`ttc.formats.bundle`), and the model they are."""

import os
from pathlib import Path
from typing import Self

from ttc.formats.bundle import BundleFolder
from ttc.formats.manifest import MANIFEST_FILE, WeightSpec
from ttc.model.config import ModelConfig
from ttc.model.weights import GRAPH_OF

__all__ = ["Bundle"]


class Bundle(BundleFolder):
    """An open, verified bundle of a model.

    Attributes:
        config: the model.
    """

    config: ModelConfig

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        checkpoint_root: str | os.PathLike[str] | None = None,
        trust: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Open as `BundleFolder` does; raise `BundleError` also where the manifest's `model` is none."""
        bundle = super().open(path, checkpoint_root, trust)
        try:
            where = f"{Path(path) / MANIFEST_FILE}: model"
            bundle.config = ModelConfig.from_dict(dict(bundle.manifest.model), where)
        except BaseException:
            bundle.close()
            raise
        return bundle

    def weights_for(self, *towers: str) -> dict[str, WeightSpec]:
        """Return name → weight of these towers, each one of the keys of `ttc.model.weights.GRAPH_OF`."""
        roles = {GRAPH_OF[tower] for tower in towers}
        return {name: spec for name, spec in self.weights.items() if roles.intersection(spec.graphs)}
