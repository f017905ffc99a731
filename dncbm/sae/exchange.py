"""Concepts that explain least give way to directions that would explain more.

Training stops where no small step helps: some concepts live on noise while a direction that many
rows show has none. The remedies for dead concepts do not see them, since they fire now and then. So
from time to time some rows are looked at in two halves. On one, directions are proposed from what
is left unexplained; on the other, each is compared with the concept it would replace by what either
takes off the squared error. K-SVD replaces its least used atoms likewise (Aharon et al. 2006).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from dncbm.sae.activations import BatchTopK, TopK
from dncbm.sae.gates import JumpReLU
from dncbm.sae.model import SaeModel
from dncbm.sae.rows import EmbeddingRows

MARGIN = 10.0
"""A newcomer explains at least so many times what the concept that gives way explains."""
CAP = 0.01
"""Share of the concepts that may give way at once: the first proposals are the best, and each new
concept changes what the next could explain."""
TOLD_APART = 0.5
"""Largest cosine of two newcomers."""
KNOWN = 0.8
"""Largest cosine of a newcomer and a concept: more is not new."""
ROUNDS = 2
_FIRINGS = 64
"""Firings of a concept of mean density that each half should hold."""
_ROWS = (4096, 65_536)
"""Least and most rows of each half, where there are so many."""
_PROPOSALS = (256, 4096)
_SHARE = 0.5
"""A proposal is a mean over this share of the rows in which a concept of mean density fires."""
_FEWEST = 8
"""And over no fewer rows than these."""
_RIDGE = 1e-3
_BLOCK = 256
"""Proposals worked on at once."""
_ENTRIES = 1 << 24
"""Pre-activations computed at once."""


class Unexplained(NamedTuple):
    """What the dictionary leaves over of some rows, in standardised units."""

    inputs: Float[Tensor, "n d"]
    """The rows less the pre-bias."""
    residuals: Float[Tensor, "n d"]
    """Less their mean: what all rows lack is for the pre-bias to learn."""
    entry: Float[Tensor, "n"]
    """The code that a newcomer must exceed to be kept."""
    displaced: Float[Tensor, "n"]
    """The code that goes where one more is kept."""
    worth: Float[Tensor, "c"]
    """How much of the squared error of all rows each concept takes off, about."""


@torch.no_grad()
def exchange(
    model: SaeModel, rows: EmbeddingRows, *, k: int, generator: torch.Generator
) -> Int64[Tensor, "t"]:
    """Replace concepts where a direction outside the dictionary explains more; returns which.

    Args:
        model: with free dictionary rows.
        rows: training embeddings, of which up to 131,072 are looked at.
        k: codes per row, about.
        generator: chooses the rows.
    """
    wanted = min(max(_FIRINGS * model.num_concepts // k, _ROWS[0]), _ROWS[1])
    chosen = torch.randperm(len(rows), generator=generator)[: 2 * wanted]
    if len(chosen) < 2 * _FEWEST:
        return torch.empty(0, dtype=torch.int64, device=model.input_mean.device)
    seen, judged = (unexplained(model, rows, half) for half in (chosen[::2], chosen[1::2]))
    proposals = _proposals(model, seen, k)
    chance = torch.randn(_BLOCK, model.embed_dim, generator=generator).to(proposals)
    gains = gains_of(judged, proposals)
    known = [(some @ model.dictionary.T).amax(dim=1) for some in proposals.split(_BLOCK)]
    new = torch.cat(known) <= KNOWN
    better = gains > gains_of(judged, functional.normalize(chance, dim=1)).max()
    concepts, places = match(judged.worth, gains * (new & better), proposals)
    if len(concepts):
        _place(model, concepts, proposals[places], seen)
    return concepts


@torch.no_grad()
def settle(model: SaeModel, optimizer: torch.optim.Adam, newcomers: Int64[Tensor, "t"]) -> None:
    """Adam's memory of concepts that have just come; called with their first gradients.

    No direction yet, and steps of the usual size: second moments are the mean square of the row's
    first gradient, and at least those of the other concepts on average. From 0 the first steps
    would be several times too long, since Adam corrects for that in its own first steps only.
    """
    others = torch.ones(model.num_concepts, dtype=torch.bool, device=newcomers.device)
    others[newcomers] = False
    for parameter in _of_concepts(model):
        if parameter.grad is None:
            continue
        state, squares = optimizer.state[parameter], parameter.grad[newcomers].square()
        # Adam divides by the share of a start at 0 that is still in all second moments.
        squares *= 1.0 - optimizer.param_groups[0]["betas"][1] ** float(state["step"])
        own = squares.mean(dim=1, keepdim=True) if squares.dim() > 1 else squares
        usual = state["exp_avg_sq"][others].sum(dim=0) / others.sum().clamp(min=1)
        state["exp_avg"][newcomers] = 0.0
        state["exp_avg_sq"][newcomers] = torch.maximum(own, usual)


def unexplained(model: SaeModel, rows: EmbeddingRows, indices: Int64[Tensor, "n"]) -> Unexplained:
    """What is left of the rows at `indices`.

    Without concept j a row with code z_j > 0 loses z_j² and gains the square of the code that
    moves up, if residuals and dictionary rows are at right angles: z_j² - z_next² is its worth.
    """
    parts = []
    was_training = model.training
    model.eval()  # BatchTopK would learn its threshold from these rows
    for some in indices.split(max(_ENTRIES // model.num_concepts, 1)):
        inputs = model.standardize(rows.gather(some).to(model.input_mean.device))
        pre = model.pre_activations(inputs)
        codes = model.activation(pre)
        entry, displaced, following = _bounds(model, pre)
        worth = (codes.square() - following.square()[:, None]) * (codes > 0)
        left = inputs - model.decode_standardized(codes)
        parts.append((inputs - model.pre_bias, left, entry, displaced, worth.sum(dim=0)))
    model.train(was_training)
    *by_row, worths = zip(*parts, strict=True)
    inputs, residuals, entry, displaced = (torch.cat(part) for part in by_row)
    worth = torch.stack(worths).sum(dim=0)
    return Unexplained(inputs, residuals - residuals.mean(dim=0), entry, displaced, worth)


def _bounds(model: SaeModel, pre: Float[Tensor, "n c"]) -> tuple[Tensor, Tensor, Tensor]:
    """Per row what a code must exceed, what it displaces, and what would move up for one less."""
    activation, none = model.activation, pre.new_zeros(len(pre))
    if isinstance(activation, TopK):
        largest = functional.pad(pre, (0, 1)).topk(activation.k + 1, dim=1).values.relu()
        return largest[:, -2], largest[:, -2], largest[:, -1]
    if isinstance(activation, BatchTopK):
        bound = none + activation.threshold.clamp(min=0)
        return bound, bound, bound
    if isinstance(activation, JumpReLU):  # newcomers get the mean gate, see `_place`
        return none + activation.log_threshold.mean().exp(), none, none
    return none, none, none


def _proposals(model: SaeModel, left: Unexplained, k: int) -> Float[Tensor, "m d"]:
    count = min(max(model.num_concepts // 4, _PROPOSALS[0]), _PROPOSALS[1])
    fires = _SHARE * len(left.residuals) * k / model.num_concepts
    return propose(left.residuals, count, max(round(fires), _FEWEST))


def propose(residuals: Float[Tensor, "n d"], count: int, over: int) -> Float[Tensor, "m d"]:
    """Unit directions of what is left over.

    Each starts as one of the `count` longest residuals and becomes, twice, the weighted mean of the
    `over` residuals in which it is largest.
    """
    longest = residuals.norm(dim=1).argsort(descending=True, stable=True)[:count]
    found = []
    for block in residuals[longest].split(_BLOCK):
        directions = functional.normalize(block, dim=1)
        for _ in range(ROUNDS):
            scores = residuals @ directions.T
            best, where = scores.topk(min(over, len(scores)), dim=0)
            weights = torch.zeros_like(scores).scatter_(0, where, best.relu())
            directions = functional.normalize(weights.T @ residuals, dim=1)
        found.append(directions)
    return torch.cat(found)


def gains_of(left: Unexplained, directions: Float[Tensor, "m d"]) -> Float[Tensor, "m"]:
    """What each direction, as a concept, would take off the squared error of all rows.

    In a row with residual r it has the code s = r . u; where s exceeds the entry and takes the
    place of a code e, that saves s² - e². This is what the direction can do once its encoder row is
    trained: the row it starts with (`readers`) reads such codes only about, and right after an
    exchange the error rises before steps bring it down. Judged by that row, none would be let in.
    """
    found = []
    for block in directions.split(_BLOCK):
        scores = left.residuals @ block.T
        saved = scores.square() - left.displaced.square()[:, None]
        found.append((saved * (scores > left.entry[:, None])).sum(dim=0))
    return torch.cat(found)


def match(
    worth: Float[Tensor, "c"], gains: Float[Tensor, "m"], directions: Float[Tensor, "m d"]
) -> tuple[Int64[Tensor, "t"], Int64[Tensor, "t"]]:
    """Concepts that give way, least worth first, and the directions that come, best first.

    A pair counts while the gain is above 0 and at least `MARGIN` times the worth.
    """
    leaving = worth.argsort(stable=True)[: max(round(CAP * len(worth)), 1)]
    taken: list[int] = []
    free = gains > 0
    for place in gains.argsort(descending=True, stable=True).tolist():
        if len(taken) == len(leaving) or gains[place] < MARGIN * worth[leaving[len(taken)]]:
            break
        if free[place]:
            taken.append(place)
            free &= directions @ directions[place] <= TOLD_APART
    return leaving[: len(taken)], torch.tensor(taken, dtype=torch.int64, device=gains.device)


def _of_concepts(model: SaeModel) -> list[nn.Parameter]:
    gates = model.activation.parameters() if isinstance(model.activation, nn.Module) else ()
    of_each = [gate for gate in gates if gate.shape == (model.num_concepts,)]
    return [model.dictionary, model.encoder_weight, model.encoder_bias, *of_each]


def _place(
    model: SaeModel,
    concepts: Int64[Tensor, "t"],
    directions: Float[Tensor, "t d"],
    left: Unexplained,
) -> None:
    weights, biases = readers(left, directions)
    model.dictionary[concepts] = directions
    model.encoder_weight[concepts] = weights
    model.encoder_bias[concepts] = biases
    others = torch.ones(model.num_concepts, dtype=torch.bool, device=concepts.device)
    others[concepts] = False
    for gate in _of_concepts(model)[3:]:
        gate[concepts] = gate[others].mean()


def readers(
    left: Unexplained, directions: Float[Tensor, "t d"]
) -> tuple[Float[Tensor, "t d"], Float[Tensor, "t"]]:
    """Encoder rows and biases that read the codes of directions off the rows, by least squares.

    A direction itself would read more of the concepts that it is not at right angles to than of
    what they leave over. With wanted codes t (r . u where it exceeds the entry, else 0) the row is
    the covariance's inverse times the mean of x t, lengthened so that the codes that are wanted
    come out in full: sum of t² = sum of t w . x. The mean row reads 0.
    """
    scores = left.residuals @ directions.T
    wanted = scores * (scores > left.entry[:, None])
    mean = left.inputs.mean(dim=0)
    centred = left.inputs - mean
    covariance = centred.T @ centred / len(centred)
    covariance.diagonal().add_(_RIDGE * covariance.diagonal().mean())
    weights = torch.linalg.solve(covariance, centred.T @ wanted / len(centred)).T
    found = (wanted * (centred @ weights.T)).sum(dim=0)
    weights = weights * (wanted.square().sum(dim=0) / found.clamp(min=1e-12))[:, None]
    return weights, -(weights @ mean)
