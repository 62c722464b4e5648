"""What the modes share that sample tokens from logits."""

from ttc.errors import NumericsError

__all__ = ["token_error"]


def token_error(number: int) -> NumericsError:
    """Return the error of a row whose logits for new token `number` hold NaN."""
    return NumericsError(
        f"the model gave NaN logits for new token {number} (on a GPU infinite ones "
        "count as such); check the weights (ttc inspect) and the dtype"
    )
