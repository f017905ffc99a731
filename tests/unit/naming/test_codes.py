import numpy as np
import pytest
import scipy.sparse as sp

from dncbm.naming.codes import BINS, CodeIndex, code_histograms


def table(seed: int = 0, rows: int = 60, concepts: int = 7) -> np.ndarray:
    draw = np.random.default_rng(seed)
    codes = draw.exponential(size=(rows, concepts)) * (draw.random((rows, concepts)) < 0.4)
    codes[:, 5] = 0  # never active
    codes[3] = 0  # an image without concepts
    return codes.astype(np.float32)


def test_histograms_count_every_code_once() -> None:
    codes = table()
    found = code_histograms(sp.csr_matrix(codes))
    for concept in range(7):
        edges, active = found.edges(concept), codes[:, concept][codes[:, concept] > 0]
        by_hand = [
            int(((active > low) & (active <= high)).sum())
            for low, high in zip(edges[:-1], edges[1:], strict=True)
        ]
        assert found.counts[concept].sum() == len(active)
        assert np.abs(np.cumsum(found.counts[concept] - by_hand)).max() <= 1  # float32 at an edge
        assert found.inactive(concept) == 60 - len(active)
    assert found.counts[0, BINS - 1] >= 1  # the largest code is in the last step


def test_histogram_of_a_dead_concept() -> None:
    found = code_histograms(sp.csr_matrix(table()))
    assert found.counts[5].sum() == 0
    assert found.inactive(5) == 60
    assert (found.edges(5) == 0).all()


def test_nearest_is_the_cosine() -> None:
    codes, wanted = table(), table(1)[0].astype(np.float64)
    index = CodeIndex(sp.csr_matrix(codes), np.arange(100, 160))
    found = index.nearest(wanted, 5)
    lengths = np.linalg.norm(codes, axis=1) * np.linalg.norm(wanted)
    cosines = np.divide(codes @ wanted, lengths, out=np.zeros(60), where=lengths > 0)
    best = np.argsort(-cosines, kind="stable")[:5]
    assert [item.row for item in found] == (best + 100).tolist()
    assert [item.similarity for item in found] == pytest.approx(cosines[best].tolist(), rel=1e-6)
    products = codes[best[0]] * wanted
    assert list(found[0].shared) == [c for c in np.argsort(-products) if products[c] > 0][:5]


def test_an_image_is_nearest_to_itself() -> None:
    codes = table()
    index = CodeIndex(sp.csr_matrix(codes), np.arange(60))
    [first] = index.nearest(codes[7].astype(np.float64), 1)
    assert first.row == 7
    assert first.similarity == pytest.approx(1)


def test_images_that_share_nothing_are_left_out() -> None:
    index = CodeIndex(sp.csr_matrix(table()), np.arange(60))
    assert index.nearest(np.zeros(7), 5) == []
    only = np.eye(7)[2]
    assert len(index.nearest(only, 60)) == int((table()[:, 2] > 0).sum())
