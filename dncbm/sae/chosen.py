"""Which entries of a table (n, c) of pre-activations matter, found without sorting it."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dncbm.training.workers import Workers

_GROUP = 8
_SAMPLED_ROWS = 64
_SPARSE_BELOW = {torch.bfloat16: 0.015, torch.float16: 0.015}
"""Share of chosen entries from which dense products are faster than work per entry; measured at
512 x 4096, where a 16-bit product costs a quarter of a float32 one."""
_SPARSE_BELOW_OTHERWISE = 0.06


def largest_per_row(pre: Float[Tensor, "n c"], k: int) -> Int[Tensor, "n k"]:
    """Columns of the k largest entries of every row, in any order.

    Exact: at most k groups of columns have a maximum that reaches the k-th largest entry, so
    the k groups with the largest maxima hold all that is wanted.
    """
    rows, columns = pre.shape
    groups = columns // _GROUP
    if columns % _GROUP or groups < 4 * k:
        return pre.topk(k, dim=-1, sorted=False).indices
    grouped = pre.view(rows, _GROUP, groups)  # group j holds columns j, j + groups, ...
    best = largest_per_row(grouped.amax(dim=1), k)
    candidates = grouped.gather(2, best[:, None].expand(rows, _GROUP, k)).reshape(rows, _GROUP * k)
    found = candidates.topk(k, dim=-1, sorted=False).indices
    return (found // k) * groups + best.gather(1, found % k)


def kth_largest(values: Float[Tensor, "*shape"], count: int) -> Float[Tensor, ""]:
    """The value of rank `count` (1 = the largest); exact, by cutting with a sampled bound first.

    NaN ranks above infinity, as in torch's own order.
    """
    flat = values.flatten()
    sample = flat[:: flat.numel() // 2**18 | 1]  # odd, or it would stay within few columns
    wanted = int(1.3 * count * sample.numel() / flat.numel()) + 8
    if 4 * wanted < sample.numel():
        above = flat[~(flat < sample.kthvalue(sample.numel() - wanted + 1).values)]
        if above.numel() >= count:
            flat = above
    return flat.kthvalue(flat.numel() - count + 1).values


def kth_largest_of_all(
    values: Float[Tensor, "n c"], per_row: int, workers: Workers
) -> Float[Tensor, ""]:
    """The value of rank `per_row` times the rows of all workers, among the values of all."""
    own = per_row * len(values)
    if workers.size == 1:
        return kth_largest(values, own)
    total = torch.tensor([own], device=values.device)
    workers.sum_(total)
    # No worker's own bound can lie below the smallest of them, nor can the common one.
    local = kth_largest(values, own) if own else values.new_tensor(torch.inf)
    candidates = workers.gather(values[~(values < workers.smallest(local))])
    return kth_largest(candidates, int(total))


def positions(mask: Bool[Tensor, "n c"]) -> Int[Tensor, "m"]:
    """Flat positions of the marked entries, ascending."""
    return mask.flatten().nonzero()[:, 0]


def few(mask_of_rows: Bool[Tensor, "n c"], dtype: torch.dtype) -> bool:
    """Whether work per marked entry beats dense products in this precision."""
    share = float(mask_of_rows.sum()) / max(1, mask_of_rows.numel())
    return share < _SPARSE_BELOW.get(dtype, _SPARSE_BELOW_OTHERWISE)


def sampled_rows(table: Float[Tensor, "n c"]) -> Float[Tensor, "s c"]:
    """Some rows, evenly spread, the same ones whenever the table has this size."""
    return table[:: max(1, len(table) // _SAMPLED_ROWS)]
