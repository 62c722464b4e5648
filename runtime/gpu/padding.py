"""The small inputs and outputs of calls that are padded with rows that are nobody's."""

from dataclasses import replace

from ttc.runtime.gpu.lengths import padded_rows
from ttc.runtime.interface.backend import BlockInputs, StepInputs, StepOutputs
from ttc.runtime.interface.sampling import RowSampling, SamplingParams

__all__ = ["filled", "first_rows", "padded_blocks", "padded_step"]

_IDLE = RowSampling(0.0, None, None, 0, 0)


def padded_step(inputs: StepInputs, batch: int) -> StepInputs:
    """Return the inputs of so many rows, those that are added zeros."""
    names = StepInputs.__dataclass_fields__
    return StepInputs(**{name: padded_rows(getattr(inputs, name), batch) for name in names})


def filled(how: SamplingParams, batch: int) -> SamplingParams:
    """Return how so many rows are sampled; those that are added take the most probable token."""
    return SamplingParams(how.rows + (_IDLE,) * (batch - len(how.rows)))


def first_rows(outputs: StepOutputs, count: int) -> StepOutputs:
    """Return the outputs of the first rows."""
    names = StepOutputs.__dataclass_fields__
    return StepOutputs(**{name: getattr(outputs, name)[:count] for name in names})


def padded_blocks(inputs: BlockInputs, batch: int) -> BlockInputs:
    """Return blocks of so many rows; those that are added have nothing masked."""
    return replace(
        inputs,
        block_ids=padded_rows(inputs.block_ids, batch),
        threshold=padded_rows(inputs.threshold, batch),
        temperature=padded_rows(inputs.temperature, batch),
        row_key=padded_rows(inputs.row_key, batch),
    )
