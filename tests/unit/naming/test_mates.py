import numpy as np
import torch

from dncbm.naming.assign import assign_names
from dncbm.naming.config import NamingConfig
from dncbm.naming.exact import nearest_words
from dncbm.naming.mates import details
from dncbm.naming.words import WordRows
from tests.oracles.naming import detail, unit
from tests.unit.naming.conftest import make_vocabulary

WORDS = ("dog", "white dog", "puppy", "dog sled", "cat", "tabby", "grass", "dogs")


def test_details_agree_with_the_oracle(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(len(WORDS), 5)) * 0.5 + 1.0
    words = WordRows(make_vocabulary(WORDS, vectors).embeddings)
    mates = np.stack([unit(rng.normal(size=5) * 0.5 + 1.0) for _ in range(12)])
    directions = torch.from_numpy(mates).float()
    nearest = nearest_words(words, directions, len(WORDS))
    found = details(["dog"] * 12, words, WORDS, directions, nearest)
    # "dogs" says no more than "dog"; the oracle knows no plurals, so it gets none
    others = vectors[:-1]
    expected = {i: detail(WORDS[:-1], "dog", mates, i, others) for i in range(12)}
    best = {i: int(nearest[1][i, 0]) for i in range(12)}
    assert {i: found.get(i) for i in found if best[i] != 7} == {
        i: word for i, word in expected.items() if word and best[i] != 7
    }
    assert 3 < len(found) < 12 or len(found) == 12


def test_only_name_mates_are_told_apart() -> None:
    vectors = np.array([[1.0, 0.0, 0.0], [1.0, 0.7, 0.0], [1.0, 0.0, 0.7]])
    words = WordRows(make_vocabulary(["dog", "puppy", "hound (dog)"], vectors).embeddings)
    directions = words.take(torch.tensor([1, 2, 1]))
    nearest = nearest_words(words, directions, 3)
    labels = ["dog", "puppy", "hound (dog)"]
    found = details(["dog", "dog", None], words, labels, directions, nearest)
    assert found == {0: "puppy", 1: "hound"}
    assert details(["dog", "cat", None], words, labels, directions, nearest) == {}


def test_names_carry_the_detail_and_keep_their_group() -> None:
    vectors = np.array([[1.0, 0, 0, 0], [1.0, 0.7, 0, 0], [1.0, 0, 0.7, 0], [0, 0, 0, 1.0]])
    vocabulary = make_vocabulary(["dog", "white dog", "dog sled", "sea"], vectors)
    rows = vocabulary.embeddings[[1, 2, 3, 1]]
    options = {"centring": "none", "false_name_rate": None, "back_off": 0.3}
    found = assign_names(rows, vocabulary, config=NamingConfig(**options))
    assert [name.name for name in found] == [
        "dog (white dog)", "dog (dog sled)", "sea", "dog (white dog)",
    ]  # fmt: skip
    assert [name.group for name in found] == [0, 0, 2, 0]
    plain = assign_names(rows, vocabulary, config=NamingConfig(**options, distinguish=False))
    assert [name.name for name in plain] == ["dog", "dog", "sea", "dog"]
    assert [name.score for name in plain] == [name.score for name in found]
