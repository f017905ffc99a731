"""Pictures of n x n cells, and their cells."""

from jaxtyping import Float
from torch import Tensor

from dncbm.errors import InvalidInput


def cut(pictures: Float[Tensor, "g d hh ww"], side: int) -> Float[Tensor, "m d h w"]:
    """Cells of each picture, row by row, all cells of a picture after each other.

    Raises:
        InvalidInput: the cells do not divide the picture.
    """
    high, wide = pictures.shape[-2:]
    if high % side or wide % side:
        raise InvalidInput(
            f"Features of {high} x {wide} places are not divided by {side} x {side} cells. Take "
            "another layer, or images of a size that the strides of the network divide."
        )
    parts = pictures.unflatten(-1, (side, -1)).unflatten(-3, (side, -1))  # g d r h c w
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def stitch(cells: Float[Tensor, "m d h w"], side: int) -> Float[Tensor, "g d hh ww"]:
    """Cells, row by row, as one picture each `side` x `side`; undoes `cut`."""
    parts = cells.unflatten(0, (-1, side, side))  # g r c d h w
    return parts.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
