import numpy as np
import pytest
import torch

from dncbm.naming.assign import assign_names, name_dictionary
from dncbm.naming.backoff import back_off
from dncbm.naming.config import NamingConfig, naming_preset
from dncbm.naming.exact import nearest_words
from dncbm.naming.words import WordRows
from tests.oracles.naming import backed_off, cosines
from tests.unit.naming.conftest import make_vocabulary

WORDS = (
    "cat", "cat scanner", "cat in a tree", "tree", "horse", "two horses", "shorts", "short",
    "red dress", "dress", "person in red dress", "person", "lamp",
)  # fmt: skip


@pytest.mark.parametrize("slack", [0.0, 0.05, 0.2, 2.0])
@pytest.mark.parametrize("voters", [1, 4, 13])
def test_agreement_agrees_with_the_oracle(
    rng: np.random.Generator, slack: float, voters: int
) -> None:
    words = rng.normal(size=(len(WORDS), 8)) * 0.4 + 0.7
    rows = WordRows(make_vocabulary(WORDS, words).embeddings)
    directions = rng.normal(size=(60, 8)) + 0.7
    units = torch.from_numpy(directions / np.linalg.norm(directions, axis=1)[:, None]).float()
    nearest = nearest_words(rows, units, voters)
    spoken = back_off(rows, WORDS, units, nearest, slack)
    for concept, direction in enumerate(directions):
        scores = cosines(direction, words)
        row, share = backed_off(WORDS, scores, slack, voters)
        assert WORDS[spoken.rows[concept]] == WORDS[row]
        assert spoken.scores[concept] == pytest.approx(scores[row], abs=1e-6)
        assert spoken.agreement[concept] == pytest.approx(share, abs=1e-5)
    assert (spoken.rows != nearest[1][:, 0].numpy()).any() == (slack > 0)


def test_gaps_of_an_approximate_index_do_not_vote() -> None:
    rows = WordRows(torch.eye(3))
    nearest = (torch.tensor([[0.9, -torch.inf]]), torch.tensor([[0, -1]]))
    spoken = back_off(rows, ("cat", "dog", "cow"), torch.eye(3)[:1], nearest, 0.1)
    assert (spoken.rows.tolist(), spoken.agreement.tolist()) == ([0], [1.0])


def names(rows: list[list[float]], words: dict[str, list[float]], **options: float) -> list[str]:
    vocabulary = make_vocabulary(list(words), np.array(list(words.values())))
    config = naming_preset("paper", **options)
    return [name.name for name in assign_names(torch.tensor(rows), vocabulary, config=config)]


def test_the_shorter_name_is_taken_where_it_does_nearly_as_well() -> None:
    words = {"cat": [1.0, 0.1], "cat scanner": [1.0, 0.0], "truck": [0.0, 1.0]}
    assert names([[1.0, 0.0]], words, back_off=0.1) == ["cat"]
    assert names([[1.0, 0.0]], words, back_off=0.001) == ["cat scanner"]
    assert names([[1.0, 0.0]], words) == ["cat scanner"]


def test_the_word_that_most_phrases_share_is_taken() -> None:
    words = {
        "cat scanner": [1.0, 0.0], "scanner": [0.9, 0.5], "orange cat": [1.0, 0.05],
        "cat": [1.0, 0.2], "truck": [0.0, 1.0],
    }  # fmt: skip
    assert names([[1.0, 0.0]], words, back_off=0.2) == ["cat"]
    # one voter has nobody to agree with: the parts of its own phrase tie, the better score wins
    assert names([[1.0, 0.0]], words, back_off=0.2, voters=1, alternatives=1) == ["cat"]


def test_a_plural_is_not_cut_and_a_singular_is_found_inside_a_phrase() -> None:
    words = {
        "shorts": [1.0, 0.0],
        "short": [1.0, 0.1],
        "two horses": [0.0, 1.0],
        "horse": [0.1, 1.0],
    }
    assert names([[1.0, 0.0], [0.0, 1.0]], words, back_off=0.5) == ["shorts", "horse"]


def test_the_passed_over_phrase_stays_among_the_alternatives() -> None:
    vocabulary = make_vocabulary(
        ["cat", "cat scanner", "truck"], np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
    )
    config = naming_preset("paper", back_off=0.1, alternatives=2)
    (name,) = assign_names(torch.tensor([[1.0, 0.0]]), vocabulary, config=config)
    assert name.name == "cat"
    assert [word for word, _ in name.alternatives] == ["cat scanner", "truck"]
    assert name.score == pytest.approx(1 / 1.01**0.5)
    assert name.margin == pytest.approx(1 - 1 / 1.01**0.5, abs=1e-6)


def test_the_best_entry_decides_whether_there_is_a_name(rng: np.random.Generator) -> None:
    vocabulary = make_vocabulary(WORDS, rng.normal(size=(len(WORDS), 8)))
    rows = torch.from_numpy(rng.normal(size=(80, 8))).float()
    with_it, without = (
        name_dictionary(rows, vocabulary, config=NamingConfig(false_name_rate=0.5, back_off=slack))
        for slack in (2.0, 0.0)
    )
    assert with_it.threshold == without.threshold
    assert [n.status for n in with_it.names] == [n.status for n in without.names]
    assert {n.status for n in without.names} == {"named", "unnamed"}
