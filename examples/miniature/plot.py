"""The learning curve of a run: `python -m examples.miniature.plot LOG.jsonl CURVE.svg`."""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from examples.miniature.data import TASKS

__all__ = ["draw", "main"]

TITLES = {"context": "context tower", "denoiser": "denoiser", "refine": "denoiser, last phase"}
mpl.rcParams["svg.hashsalt"] = "miniature"  # the same log gives the same file


def draw(lines: list[dict[str, Any]]) -> Figure:
    """A column per phase: loss above, held-out problems solved below, over training minutes."""
    phases = [phase for phase in TITLES if any(line["phase"] == phase for line in lines)]
    figure = Figure(figsize=(1 + 4 * len(phases), 5), layout="constrained")
    panels = figure.subplots(2, len(phases), sharex="col", sharey="row", squeeze=False)
    for column, phase in enumerate(phases):
        mine = [line for line in lines if line["phase"] == phase]
        start = mine[0]["seconds"]
        top, bottom = panels[0][column], panels[1][column]
        top.plot([(line["seconds"] - start) / 60 for line in mine], [line["loss"] for line in mine], lw=0.8)
        top.set_yscale("log")
        top.set_title(TITLES[phase])
        watched = [line for line in mine if "word" in line]
        minutes = [(line["seconds"] - start) / 60 for line in watched]
        for task in TASKS:
            bottom.plot(
                minutes, [line[task] for line in watched], label=task, lw=2.0 if task == "word" else 1.0
            )
        bottom.set_xlabel("training minutes")
        for panel in (top, bottom):
            panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("loss")
    panels[1][0].set_ylabel("held-out problems solved")
    panels[1][0].legend()
    return figure


def main() -> None:
    """Read the log, write the picture."""
    parser = argparse.ArgumentParser(description="Draw the learning curve of a training run.")
    parser.add_argument("log", type=Path)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    lines = [json.loads(line) for line in given.log.read_text(encoding="utf-8").splitlines()]
    draw(lines).savefig(given.picture, metadata={"Date": None} if given.picture.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
