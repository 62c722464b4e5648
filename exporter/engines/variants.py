"""The sizes that engines are built for: profile, ranges of a graph's letters, variants of its engine."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass

from ttc.errors import InputError
from ttc.exporter.engines.build_input import GraphSource
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.profiles.build_profile import DIMENSIONS, BuildProfile, Range, load_build_profile

__all__ = ["EngineVariant", "Ranges", "choose_profile", "engine_variants", "graph_ranges"]

DEFAULT_PROFILE = "latency"
# Sizes of the letters at min, opt and max.
Ranges = tuple[Mapping[str, int], Mapping[str, int], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class EngineVariant:
    """What one engine of a graph in whole form is built for.

    Attributes:
        name: of the engine.
        ranges: sizes of the graph's letters, at min, opt and max.
    """

    name: str
    ranges: Ranges


def choose_profile(graph: GraphSource, settings: BuildSettings, notes: list[str]) -> BuildProfile:
    """Return the profile with its overrides; without one, the default fitted to the model.

    Args:
        graph: any graph of the model.
        settings: the options of the build.
        notes: gets a sentence where sizes were lowered.
    """
    unknown = sorted(settings.shapes.keys() - set(DIMENSIONS))
    if unknown:
        raise InputError(f"no dimension {unknown[0]!r}; valid: {', '.join(DIMENSIONS)}")
    changes = {
        name: {end: _number(name, end, size) for end, size in ends.items()}
        for name, ends in settings.shapes.items()
    }
    if isinstance(settings.profile, BuildProfile):
        return settings.profile.override(changes)
    if settings.profile is not None:
        return load_build_profile(os.fspath(settings.profile)).override(changes)
    profile = load_build_profile(DEFAULT_PROFILE)
    if profile.capacity.max > graph.config.max_position_embeddings:
        limit = graph.config.max_position_embeddings
        block, chunk, capacity = (
            Range(min(size.min, limit), min(size.opt, limit), min(size.max, limit))
            for size in (profile.block, profile.chunk, profile.capacity)
        )
        profile = dataclasses.replace(profile, block=block, chunk=chunk, capacity=capacity)
        notes.append(f"profile {DEFAULT_PROFILE}, with its sizes lowered to the model's {limit} positions")
    return profile.override(changes)


def graph_ranges(graph: GraphSource, profile: BuildProfile) -> Ranges:
    """Return the ranges of a graph's letters."""
    low, usual, high = (profile.sizes(graph.role, end) for end in ("min", "opt", "max"))
    return low, usual, high


def _number(name: str, end: str, size: int | tuple[int, ...]) -> int:
    """Return the one number that a size of the profile is."""
    if isinstance(size, int):
        return size
    if len(size) != 1:
        raise InputError(f"{name}.{end} is {'x'.join(map(str, size))}; valid: one number")
    return size[0]


def engine_variants(
    graph: GraphSource, profile: BuildProfile, form: str, ranges: Ranges
) -> tuple[EngineVariant, ...]:
    """Return one variant, or one for each length that the context tower reads at once."""
    lengths = profile.context_lengths if (graph.role, form) == ("context", "whole") else ()
    if len(lengths) < 2:
        return (EngineVariant(graph.role, ranges),)
    low, usual, high = ranges
    variants = []
    for length in lengths:
        fixed = [{**sizes, "L": length, "R": min(sizes["R"], length)} for sizes in (low, usual, high)]
        variants.append(EngineVariant(f"context-{length}", (fixed[0], fixed[1], fixed[2])))
    return tuple(variants)
