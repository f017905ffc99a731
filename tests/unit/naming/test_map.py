import numpy as np
import pytest

from dncbm.naming import map as layout
from dncbm.naming.map import concept_map


def bundles(size: int = 12) -> np.ndarray:
    """Three bundles of directions, each tight around an axis of its own."""
    draw = np.random.default_rng(0)
    axes = np.repeat(np.eye(16)[:3], size, axis=0)
    rows = axes + 0.05 * draw.normal(size=axes.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_like_directions_lie_together() -> None:
    found = concept_map(bundles())
    assert found.method == "pca+tsne"
    distances = np.linalg.norm(found.places[:, None] - found.places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    bundle = np.repeat(np.arange(3), 12)
    assert (bundle[distances.argmin(axis=1)] == bundle).all()


def test_same_directions_give_the_same_map() -> None:
    first, second = concept_map(bundles()), concept_map(bundles())
    np.testing.assert_array_equal(first.places, second.places)


def test_places_fill_the_square() -> None:
    places = concept_map(bundles()).places
    assert np.abs(places).max() == pytest.approx(1)
    np.testing.assert_allclose(places.min(axis=0), -places.max(axis=0))


def test_very_many_are_laid_out_by_pca(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MOST_FOR_TSNE", 20)
    found = concept_map(bundles())
    assert found.method == "pca"
    centred = bundles().astype(np.float64) - bundles().mean(axis=0)
    for place, axis in enumerate(np.linalg.svd(centred)[2][:2]):
        cosine = np.corrcoef(centred @ axis, found.places[:, place])[0, 1]
        assert abs(cosine) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_few_directions(count: int) -> None:
    places = concept_map(bundles()[:count]).places
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()
