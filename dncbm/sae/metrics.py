"""How good codes and reconstructions are, over all rows in one pass.

Several numbers on purpose: published metrics of sparse autoencoders agree neither with each
other nor with what people find interpretable, so none of them is a score.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from dncbm.sae.active import ActiveCodes, decode_active
from dncbm.sae.alignment import FEWEST, NEIGHBOURS, cknna
from dncbm.sae.encode import active_codes
from dncbm.sae.geometry import coherence
from dncbm.sae.model import SaeModel
from dncbm.sae.monosemanticity import Monosemanticity
from dncbm.sae.rows import CHUNK, EmbeddingRows, chunks, input_statistics

DENSE = 0.1
"""A concept that fires on more than this share of rows is dense."""
DENSITY_EDGES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Edges of the density histogram: a bin holds densities in (lower, upper]; dead ones stand
in a bin of their own before the first."""
CKNNA_ROWS = 1024
"""Rows drawn for CKNNA, as in Huh et al. 2024."""
_CODES_AT_ONCE = 2**26
"""Numbers in a dense batch of codes: 256 MiB of float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaeMetrics:
    """Quality of an SAE on a set of rows."""

    rows: int
    unexplained_variance: float
    """Squared error over the variance around the mean row; 0 perfect, 1 as good as the mean."""
    cosine: float
    """Mean cosine between embedding and reconstruction."""
    l0: float
    """Mean number of non-zero codes per row."""
    dead_fraction: float
    """Share of concepts that never fire on these rows."""
    dense_fraction: float
    """Share of concepts that fire on more than a tenth of the rows."""
    density_histogram: tuple[int, ...]
    """Concepts that never fire, then concepts per bin between `DENSITY_EDGES`."""
    num_concepts: int
    monosemanticity: float | None
    """Mean MonoSemanticity score, under these embeddings, of the concepts that fire on at least
    two rows; None where there are none."""
    monosemanticity_baseline: float | None
    """The score of a concept that tells nothing: mean cosine of two different rows."""
    cknna: float | None
    """Alignment of embeddings (centred) and codes, k = 10, on a sample; None under four rows."""
    cknna_rows: int
    """Size of that sample; values of different sizes do not compare."""
    coherence_max: float
    """Largest |cosine| of two concepts' directions; of the dictionary alone, as the next."""
    coherence_mean: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for manifests."""
        return asdict(self) | {"density_histogram": list(self.density_histogram)}


@torch.no_grad()
def evaluate_sae(
    model: SaeModel, rows: EmbeddingRows, *, batch_size: int | None = None
) -> SaeMetrics:
    """Metrics over all rows, in evaluation mode.

    Memory is bounded by a batch of codes and a few tables of the dictionary's size.

    Args:
        model: in any mode.
        rows: embeddings.
        batch_size: rows at once; None takes as many as keep their codes within 256 MiB.
    """
    was_training = model.training
    model.eval()
    try:
        batch_size = batch_size or max(1, min(CHUNK, _CODES_AT_ONCE // model.num_concepts))
        error, cosine, fired, meaning = _one_pass(model, rows, batch_size)
        neighbours = _alignment(model, rows)
    finally:
        model.train(was_training)
    variance = input_statistics(rows).variance * len(rows)
    likeness = coherence(model.dictionary)
    return SaeMetrics(
        rows=len(rows),
        unexplained_variance=_ratio(error, variance),
        cosine=cosine / len(rows),
        num_concepts=model.num_concepts,
        monosemanticity=_finite(float(meaning.scores().nanmean())),
        monosemanticity_baseline=_finite(meaning.baseline()),
        cknna=neighbours,
        cknna_rows=min(CKNNA_ROWS, len(rows)),
        coherence_max=likeness.largest,
        coherence_mean=likeness.mean,
        **density_summary(fired.cpu(), len(rows)),
    )


def _one_pass(
    model: SaeModel, rows: EmbeddingRows, batch_size: int
) -> tuple[float, float, Tensor, Monosemanticity]:
    """Summed squared error, summed cosine, firing counts, what concepts' images share."""
    device = model.input_mean.device
    meaning = Monosemanticity(model.num_concepts, model.embed_dim, device)
    fired = torch.zeros(model.num_concepts, dtype=torch.int64, device=device)
    error, cosine = 0.0, 0.0
    for chunk in chunks(rows, batch_size):
        embeddings = chunk.to(device)
        codes = active_codes(model, embeddings)
        reconstruction = _reconstruction(model, codes, embeddings)
        fired += torch.bincount(codes.concepts, minlength=model.num_concepts)
        meaning.add(codes, embeddings)
        error += float((embeddings - reconstruction).double().square().sum())
        cosine += float(functional.cosine_similarity(embeddings, reconstruction).double().sum())
    return error, cosine, fired, meaning


def _reconstruction(model: SaeModel, codes: ActiveCodes, embeddings: Tensor) -> Tensor:
    """As the model's own forward pass, from active codes."""
    rebuilt = decode_active(codes, model.dictionary) + model.pre_bias
    rebuilt = rebuilt * model.input_scale + model.input_mean
    return rebuilt * embeddings.norm(dim=-1, keepdim=True) if model.normalize else rebuilt


def _alignment(model: SaeModel, rows: EmbeddingRows) -> float | None:
    """CKNNA of centred embeddings and codes on rows drawn at random, always the same."""
    if len(rows) < FEWEST:
        return None
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:CKNNA_ROWS]
    sample = rows.gather(drawn.sort().values).to(model.input_mean.device)
    codes = model.encode(sample)
    return _finite(cknna(sample - sample.mean(dim=0), codes, neighbours=NEIGHBOURS))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def density_summary(fired: Int64[Tensor, "c"], num_rows: int) -> dict[str, Any]:
    """L0, dead and dense fractions and the density histogram from firing counts."""
    density = fired.double() / num_rows
    bins = torch.bucketize(density, torch.tensor(DENSITY_EDGES, dtype=torch.float64))
    return {
        "l0": float(density.sum()),
        "dead_fraction": float((fired == 0).double().mean()),
        "dense_fraction": float((density > DENSE).double().mean()),
        "density_histogram": tuple(torch.bincount(bins, minlength=len(DENSITY_EDGES)).tolist()),
    }


def unexplained_variance(
    embeddings: Float[Tensor, "n d"], reconstruction: Float[Tensor, "n d"]
) -> float:
    """Squared error over the variance around the mean row, in float64.

    Rows without variance give 0 when reproduced exactly and 1 otherwise.
    """
    wide = embeddings.double()
    error = (wide - reconstruction.double()).square().sum()
    return _ratio(float(error), float((wide - wide.mean(dim=0)).square().sum()))


def _ratio(error: float, variance: float) -> float:
    if variance > 0:
        return error / variance
    return 0.0 if error == 0 else 1.0


class Labelled(NamedTuple):
    """Embeddings (n, d) with their class indices (n)."""

    embeddings: Float[Tensor, "n d"]
    labels: Int64[Tensor, "n"]


def accuracy_kept(
    train: Labelled, test: Labelled, reconstruction: Float[Tensor, "n d"]
) -> dict[str, float]:
    """Test accuracy of one linear readout on embeddings and on their reconstructions.

    The readout (multinomial logistic regression on standardised embeddings) is fitted on the
    `train` embeddings and applied to the `test` ones and to their `reconstruction`, so the
    difference is what the SAE's reconstruction loses for classification.

    Returns:
        `accuracy_embeddings`, `accuracy_reconstruction` and `accuracy_kept`, their ratio.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    readout = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    readout.fit(train.embeddings.numpy(), train.labels.numpy())
    plain, rebuilt = (
        float(readout.score(rows.numpy(), test.labels.numpy()))
        for rows in (test.embeddings, reconstruction)
    )
    return {
        "accuracy_embeddings": plain,
        "accuracy_reconstruction": rebuilt,
        "accuracy_kept": rebuilt / plain if plain > 0 else 0.0,
    }
