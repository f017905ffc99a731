import numpy as np
import torch

from dncbm.naming.centring import centre_directions, centre_words
from dncbm.naming.words import mean_unit_word
from tests.oracles.naming import centred, unit, without_axis


def tensor(rows: np.ndarray) -> torch.Tensor:
    values = torch.from_numpy(rows).float()
    return values / values.norm(dim=-1, keepdim=True)


def test_words_lose_their_mean(rng: np.random.Generator) -> None:
    words = rng.normal(size=(20, 6)) + 2.0
    truth = np.stack([unit(row) for row in centred(words)])
    found = centre_words(tensor(words), mean_unit_word(tensor(words)))
    np.testing.assert_allclose(found.numpy(), truth, atol=2e-6)


def test_directions_lose_their_part_along_the_image_mean(rng: np.random.Generator) -> None:
    rows, mean = rng.normal(size=(9, 6)), rng.normal(size=6)
    truth = np.stack([unit(without_axis(row, mean)) for row in rows])
    found = centre_directions(tensor(rows), "words+directions", torch.from_numpy(mean).float())
    np.testing.assert_allclose(found.numpy(), truth, atol=2e-6)


def test_none_and_a_missing_mean_change_nothing(rng: np.random.Generator) -> None:
    rows = tensor(rng.normal(size=(5, 6)))
    torch.testing.assert_close(centre_words(rows, torch.zeros(6)), rows)
    assert centre_directions(rows, "words", torch.ones(6)) is rows
    assert centre_directions(rows, "words+directions", None) is rows


def test_what_centring_would_erase_stays_as_it_is() -> None:
    words = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert torch.equal(centre_words(words, mean_unit_word(words)), words)
    direction = torch.tensor([[0.6, 0.8]])
    kept = centre_directions(direction, "words+directions", direction[0] * 3)
    torch.testing.assert_close(kept, direction)
