import numpy as np
import pytest
import torch
from scipy import sparse

from dncbm.errors import InvalidInput
from dncbm.naming import examples
from dncbm.naming.examples import concept_statistics, top_examples
from tests.oracles.naming import top_rows


@pytest.fixture
def codes(rng: np.random.Generator) -> np.ndarray:
    values = np.maximum(rng.normal(size=(50, 6)) - 0.5, 0).round(1).astype(np.float32)
    values[:, 4] = 0
    values[7:, 5] = 0
    return values


def as_dict(table: object, concept: int) -> list[tuple[int, int, float]]:
    rows = table.to_pylist()  # type: ignore[attr-defined]
    return [(r["rank"], r["row"], r["code"]) for r in rows if r["concept"] == concept]


def test_top_examples_agree_with_the_oracle(
    codes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "_ENTRIES", 6 * 7)
    for given in (
        codes,
        torch.from_numpy(codes),
        sparse.csr_matrix(codes),
        iter([codes[:9], codes[9:]]),
    ):
        table = top_examples(given, 4)
        for concept in range(6):
            truth = top_rows(codes, concept, 4)
            expected = [(rank, row, code) for rank, (row, code) in enumerate(truth)]
            assert as_dict(table, concept) == expected
    assert as_dict(table, 4) == []


def test_later_blocks_still_displace_earlier_images(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.maximum(rng.normal(size=(400, 5)), 0).astype(np.float32)
    values[200] = values[10]  # ties: the earlier row stays first
    monkeypatch.setattr(examples, "_ENTRIES", 40)
    table = top_examples(sparse.csr_matrix(values), 3)
    for concept in range(5):
        truth = top_rows(values, concept, 3)
        assert as_dict(table, concept) == [(r, row, code) for r, (row, code) in enumerate(truth)]


def test_ids_and_rows_are_those_of_the_caller(codes: np.ndarray) -> None:
    table = top_examples(
        codes, 1, rows=np.arange(50) + 100, item_ids=[f"photo {i}" for i in range(50)]
    )
    best = int(codes[:, 0].argmax())
    first = table.to_pylist()[0]
    assert (first["row"], first["item_id"]) == (best + 100, f"photo {best}")
    assert top_examples(codes, 1).to_pylist()[0]["item_id"] == str(best)


def test_statistics_by_definition(codes: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "_ENTRIES", 6 * 11)
    table = concept_statistics(sparse.csr_matrix(codes)).to_pydict()
    for concept in range(6):
        column = [float(x) for x in codes[:, concept]]
        assert table["density"][concept] == pytest.approx(sum(x > 0 for x in column) / 50)
        assert table["mean_code"][concept] == pytest.approx(sum(column) / 50, rel=1e-6)
        assert table["max_code"][concept] == pytest.approx(max(column))


def test_bad_codes(codes: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="k is 0"):
        top_examples(codes, 0)
    for function in (concept_statistics, lambda c: top_examples(c, 2)):
        with pytest.raises(InvalidInput, match="at least one row"):
            function(np.empty((0, 3), np.float32))
    codes[3, 2] = np.nan
    with pytest.raises(InvalidInput, match="NaN or infinity within rows 0 to 49"):
        concept_statistics(codes)
    with pytest.raises(InvalidInput, match="2 rows came for 3 codes"):
        top_examples(np.ones((3, 2)), 1, rows=[1, 2])
    with pytest.raises(InvalidInput, match="1 item_ids came for 3 codes"):
        top_examples(np.ones((3, 2)), 1, item_ids=["a"])
