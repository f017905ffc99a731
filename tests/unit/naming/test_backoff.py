import numpy as np
import pytest
import torch

from dncbm.naming.assign import assign_names, name_dictionary
from dncbm.naming.backoff import Backoff
from dncbm.naming.config import NamingConfig, naming_preset
from tests.oracles.naming import backed_off, cosines
from tests.unit.naming.conftest import make_vocabulary

WORDS = (
    "cat", "cat scanner", "cat in a tree", "tree", "horse", "two horses", "shorts", "short",
    "red dress", "dress", "person in red dress", "person", "lamp",
)  # fmt: skip


@pytest.mark.parametrize("back_off", [0.0, 0.05, 0.2, 0.6, 2.0])
@pytest.mark.parametrize("limit", [-np.inf, 0.2])
def test_parts_agree_with_the_oracle(
    rng: np.random.Generator, back_off: float, limit: float
) -> None:
    words = rng.normal(size=(len(WORDS), 8)) + 0.7
    vocabulary = make_vocabulary(WORDS, words)
    speak = Backoff(vocabulary.embeddings, WORDS, back_off)
    changed = 0
    for _ in range(60):
        direction = rng.normal(size=8) + 0.7
        scores = cosines(direction, words)
        best = int(np.argmax(scores))
        unit = torch.from_numpy(direction / np.linalg.norm(direction)).float()
        row, score = speak(unit, best, scores[best], limit)
        expected = backed_off(WORDS, scores, back_off, limit)
        assert WORDS[row] == expected
        assert score == pytest.approx(scores[row], abs=1e-6)
        changed += row != best
    assert (changed > 0) == (back_off > 0.1)


def names(rows: list[list[float]], words: dict[str, list[float]], **options: float) -> list[str]:
    vocabulary = make_vocabulary(list(words), np.array(list(words.values())))
    config = naming_preset("paper", **options)
    return [name.name for name in assign_names(torch.tensor(rows), vocabulary, config=config)]


def test_the_shorter_name_is_taken_where_it_does_nearly_as_well() -> None:
    words = {"cat": [1.0, 0.1], "cat scanner": [1.0, 0.0], "truck": [0.0, 1.0]}
    assert names([[1.0, 0.0]], words, back_off=0.1) == ["cat"]
    assert names([[1.0, 0.0]], words, back_off=0.001) == ["cat scanner"]
    assert names([[1.0, 0.0]], words) == ["cat scanner"]


def test_of_several_parts_the_shortest_is_taken() -> None:
    words = {"person in red dress": [1.0, 0.0], "red dress": [1.0, 0.1], "dress": [1.0, 0.3]}
    assert names([[1.0, 0.0]], words, back_off=0.1) == ["dress"]
    assert names([[1.0, 0.0]], words, back_off=0.01) == ["red dress"]


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


def test_a_name_never_falls_under_the_threshold(rng: np.random.Generator) -> None:
    vocabulary = make_vocabulary(WORDS, rng.normal(size=(len(WORDS), 8)))
    rows = torch.from_numpy(rng.normal(size=(80, 8))).float()
    config = NamingConfig(direction="dictionary", false_name_rate=0.5, back_off=2.0)
    naming = name_dictionary(rows, vocabulary, config=config)
    plain = name_dictionary(
        rows, vocabulary, config=NamingConfig(false_name_rate=0.5, back_off=0.0)
    )
    assert naming.threshold == plain.threshold
    named = [name for name in naming.names if name.status == "named"]
    assert named
    assert all(name.score >= naming.threshold for name in named)
    assert [n.status for n in naming.names] == [n.status for n in plain.names]
