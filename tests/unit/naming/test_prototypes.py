import numpy as np
import pytest
import scipy.sparse as sp
import torch

from dncbm.errors import InvalidInput
from dncbm.naming.prototypes import concept_prototypes, naming_directions
from tests.oracles import naming as oracle

ROWS, WIDTH, CONCEPTS = 30, 6, 5


@pytest.fixture
def codes() -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.random((ROWS, CONCEPTS)) * (draw.random((ROWS, CONCEPTS)) < 0.4)


@pytest.fixture
def embeddings() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(1.0, 1.0, (ROWS, WIDTH)))


@pytest.mark.parametrize("block", [1, 7, ROWS])
def test_prototypes_follow_the_definition(
    codes: np.ndarray, embeddings: torch.Tensor, block: int
) -> None:
    found = concept_prototypes(
        sp.csr_matrix(codes), embeddings.split(block), torch.eye(CONCEPTS, WIDTH)
    )
    for concept in range(CONCEPTS):
        expected = oracle.prototype(codes[:, concept], embeddings.numpy())
        np.testing.assert_allclose(found[concept].numpy(), expected, atol=1e-6)


def test_the_length_of_an_embedding_does_not_matter(
    codes: np.ndarray, embeddings: torch.Tensor
) -> None:
    table, fallback = sp.csr_matrix(codes), torch.eye(CONCEPTS, WIDTH)
    stretched = embeddings * torch.linspace(0.1, 9, ROWS, dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        concept_prototypes(table, [stretched], fallback),
        concept_prototypes(table, [embeddings], fallback),
    )


def test_a_concept_that_says_nothing_about_images_keeps_its_row(
    codes: np.ndarray, embeddings: torch.Tensor
) -> None:
    codes[:, 1], codes[:, 3] = 0.0, 0.5
    fallback = torch.nn.functional.normalize(torch.randn(CONCEPTS, WIDTH), dim=1)
    found = concept_prototypes(sp.csr_matrix(codes), [embeddings], fallback)
    torch.testing.assert_close(found[[1, 3]], fallback[[1, 3]])


@pytest.mark.parametrize("rows", [ROWS - 1, ROWS + 1])
def test_codes_of_other_rows_are_refused(codes: np.ndarray, rows: int) -> None:
    with pytest.raises(InvalidInput, match=f"{rows}"):
        concept_prototypes(
            sp.csr_matrix(codes), torch.ones(rows, WIDTH).split(8), torch.eye(CONCEPTS, WIDTH)
        )


def test_both_is_halfway_between_row_and_prototype(
    codes: np.ndarray, embeddings: torch.Tensor
) -> None:
    table = sp.csr_matrix(codes)
    rows = torch.nn.functional.normalize(torch.randn(CONCEPTS, WIDTH), dim=1)
    images = naming_directions("images", rows, table, [embeddings])
    both = naming_directions("both", rows, table, [embeddings])
    assert torch.equal(naming_directions("dictionary", rows, table, []), rows)
    torch.testing.assert_close((both * rows).sum(1), (both * images).sum(1))
    torch.testing.assert_close(both.norm(dim=1), torch.ones(CONCEPTS))
    opposite = naming_directions("both", -images, table, [embeddings])
    torch.testing.assert_close(opposite, images)
