"""From a checkpoint to a checkpoint with quantised experts."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ttc.base.machine import usable_cores
from ttc.errors import CheckpointError, InputError
from ttc.exporter.onnx.checkpoint import Checkpoint
from ttc.formats.atomic_folder import FolderKind, folder_writer
from ttc.formats.quant_config.files import QUANT_FILE
from ttc.formats.strictjson import read_json
from ttc.quantize.plan import MAX_SHARD_BYTES, Formats, Piece, QuantizePlan, make_plan
from ttc.quantize.record import RECORD_FILE, RECORD_FORMAT, LayerErrors, Record
from ttc.quantize.texts import COPIED, MAX_CONFIG_BYTES, write_texts
from ttc.quantize.work import Done, Job, Place
from ttc.quantize.workers import carry_out

__all__ = ["QUANTISED", "plan_quantize", "quantize"]

Say = Callable[[str], None]

QUANTISED = FolderKind(
    "a quantised checkpoint",
    RECORD_FILE,
    RECORD_FORMAT,
    re.compile(rf"{COPIED.pattern}|model(-\d{{5}}-of-\d{{5}})?\.safetensors"),
)


def plan_quantize(checkpoint: str | os.PathLike[str], formats: Formats) -> QuantizePlan:
    """Return what `quantize` would do, without reading a weight.

    Raises:
        CheckpointError: it is quantised already, or not complete and sound.
        InputError: it has no experts, or they cannot be stored so.
    """
    _refuse_quantised(Path(checkpoint))
    with Checkpoint.open(checkpoint) as source:
        return make_plan(source, formats)


def quantize(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    formats: Formats,
    *,
    force: bool = False,
    jobs: int | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Say | None = None,
) -> Record:
    """Write a copy of a checkpoint with its routed experts quantised.

    Args:
        checkpoint: folder in the Hugging Face layout, of floating dtypes.
        output: the new folder; made, or with `force` replaced if it is one of these.
        formats: of each tower's experts.
        jobs: processes at once, up to 300 MB each, and four a usable core; None: one a usable core.
        max_shard_bytes: of tensors in a file; what belongs to one matrix stays together.
        progress: called with a line of text now and then.

    Returns:
        What was done. The same bytes come out whatever `jobs` is; on any error, and when killed, nothing
        stands at `output` that did not before.

    Raises:
        CheckpointError: the checkpoint is quantised already, or not complete and sound.
        InputError: an option or the output is not valid, or the disk has too little room.
        NumericsError: a weight is NaN or infinite.
    """
    # More than a few for a core only cost memory.
    count = usable_cores() if jobs is None else min(jobs, 4 * usable_cores())
    if count < 1:
        raise InputError(f"jobs is {jobs}; valid: at least 1")
    say = progress or (lambda line: None)
    _refuse_quantised(Path(checkpoint))
    with Checkpoint.open(checkpoint) as source, folder_writer(output, force, QUANTISED) as draft:
        plan = make_plan(source, formats, max_shard_bytes)
        _check_room(draft.path, plan.total_bytes)
        for name, layout in plan.files.items():
            with (draft.path / name).open("wb") as file:
                file.write(layout.header)
                file.truncate(layout.size_bytes)
        made = _carry_out(plan, draft.path, count, say)
        record = Record(
            source.folder.resolve().name,
            formats,
            tuple(_layers(plan, made)),
            plan.source_bytes,
            plan.tower_bytes,
            plan.expert_bytes,
        )
        say("writing to disk")
        write_texts(source, plan, record, draft.path)
        draft.commit_as_is(record.to_json())
        return record


def _refuse_quantised(folder: Path) -> None:
    """Raise where a file says that the checkpoint is quantised already."""
    config = folder / "config.json"
    said = os.path.lexists(folder / QUANT_FILE)
    if config.is_file() and not said:
        found = read_json(config, MAX_CONFIG_BYTES, CheckpointError, allow_infinity=True)
        said = isinstance(found, dict) and found.get("quantization_config") is not None
    if said:
        where = QUANT_FILE if os.path.lexists(folder / QUANT_FILE) else "quantization_config in config.json"
        raise CheckpointError(
            f"{folder}: quantised already, says its {where}; quantise the checkpoint that it was made from"
        )


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder.parent}: {free / 1e9:.1f} GB are free on this disk, {needed / 1e9:.1f} GB are due; "
            "choose another output"
        )


def _carry_out(plan: QuantizePlan, folder: Path, processes: int, say: Say) -> Mapping[int, Done]:
    """Do all pieces; piece number → what came of it."""
    made: dict[int, Done] = {}
    total, written, told = sum(piece.written_bytes for piece in plan.pieces), 0, -1
    jobs = [_job(piece, plan, folder) for piece in plan.pieces]
    for i, done in carry_out(jobs, min(processes, len(jobs))):
        made[i] = done
        written += plan.pieces[i].written_bytes
        if told < (percent := 100 * written // max(total, 1)) and percent % 2 == 0:
            told = percent
            say(f"{percent} % of {total / 1e9:.2f} GB, {len(made)} of {len(jobs)} tensors")
    return made


def _job(piece: Piece, plan: QuantizePlan, folder: Path) -> Job:
    places = {}
    for suffix, tensor in piece.outputs.items():
        name = plan.file_of[tensor.name]
        places[suffix] = Place(str(folder / name), plan.files[name].offsets[tensor.name], tensor.nbytes)
    return Job(
        piece.module or next(iter(piece.outputs.values())).name,
        piece.format,
        plan.formats.four_over_six,
        piece.shape,
        piece.dtype,
        str(piece.file),
        piece.begin,
        piece.nbytes,
        places,
    )


def _layers(plan: QuantizePlan, made: Mapping[int, Done]) -> Iterator[LayerErrors]:
    """Yield the errors, the experts of a projection together, in the order of the model."""
    groups: dict[str, dict[int, tuple[str, Done]]] = {}
    for i, piece in enumerate(plan.pieces):
        if piece.module is not None:
            before, expert, projection = piece.module.rsplit(".", 2)
            groups.setdefault(f"{before}.{projection}", {})[int(expert)] = (piece.format, made[i])
    for module in sorted(groups, key=_natural):
        found = [groups[module][expert] for expert in sorted(groups[module])]
        at_top = sum(done.at_top for _, done in found) / len(found)
        yield LayerErrors(module, found[0][0], tuple(done.error for _, done in found), at_top)


def _natural(name: str) -> list[tuple[int, str]]:
    """Layer 2 before layer 10, up before down."""
    words = name.replace("up_proj", "a_up_proj").split(".")
    return [(int(word), "") if word.isdigit() else (-1, word) for word in words]
