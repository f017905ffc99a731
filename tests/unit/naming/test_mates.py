from collections.abc import Sequence

import numpy as np
import pytest
import torch

from dncbm.naming.assign import assign_names
from dncbm.naming.config import NamingConfig
from dncbm.naming.exact import nearest_words
from dncbm.naming.mates import _says_more, base_names, details
from dncbm.naming.words import WordRows
from dncbm.types import ConceptName
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


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("long sleeved", "long sleeve"),
        ("shoes", "shoe"),
        ("run", "running"),
        ("dresses", "red dress"),
        ("puppy", "puppies"),
        ("Knit (wool)", "knitted sweater"),
        ("striped stripes", "stripe"),
    ],
)
def test_other_forms_of_the_words_say_no_more(entry: str, name: str) -> None:
    assert not _says_more(entry, name)
    assert _says_more(f"blue {entry}", name)


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("cape", "cap"),
        ("princess", "princes"),
        ("university", "universe"),
        ("string", "sting"),
        ("seed", "sea"),
        ("king", "kin"),
        ("glass", "glove"),
        ("longsleeve", "long sleeve"),
    ],
)
def test_words_of_other_meanings_say_more(entry: str, name: str) -> None:
    assert _says_more(entry, name)
    assert _says_more(name, entry)


def named(*names: str, groups: Sequence[int] | None = None) -> list[ConceptName]:
    return [
        ConceptName(
            concept=concept, name=name, score=0.5, margin=0.1, alternatives=(), status="named",
            group=groups[concept] if groups else 0,
        )
        for concept, name in enumerate(names)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "bases"),
    [
        (["dog", "dog (white dog)", "dog (sled)"], ["dog"] * 3),
        (["dog (white dog)", "dog (sled)", "dog (sled)"], ["dog"] * 3),
        (["puppy (white)", "puppy", "dog"], ["puppy", "puppy", "dog"]),
        (["crane (bird)", "crane (bird)"], ["crane (bird)"] * 2),
        (["crane (bird)", "heron"], ["crane (bird)", "heron"]),
        (["crane (bird)", "crane (bird) (white)"], ["crane (bird)"] * 2),
        (["crane (bird) (sea)", "crane (bird) (white)"], ["crane (bird)"] * 2),
        (["(bird)", "a (b) c"], ["(bird)", "a (b) c"]),
    ],
)
def test_base_names_leave_the_detail_out(names: list[str], bases: list[str]) -> None:
    assert base_names(named(*names)) == bases


def test_base_names_of_other_groups_do_not_count() -> None:
    names = named("crane (bird)", "crane (machine)", groups=[0, 1])
    assert base_names(names) == ["crane (bird)", "crane (machine)"]


def test_base_names_undo_what_naming_adds(rng: np.random.Generator) -> None:
    """Names of random directions, among entries with brackets of their own."""
    entries = ["dog", "white dog", "dog (pet)", "dog sled", "crane (bird)", "white crane (bird)"]
    options = {"centring": "none", "false_name_rate": None, "back_off": 0.4}
    for _ in range(6):
        vocabulary = make_vocabulary(entries, rng.normal(size=(6, 4)) * 0.5 + 1.0)
        rows = torch.from_numpy(rng.normal(size=(12, 4)) * 0.5 + 1.0).float()
        plain = assign_names(rows, vocabulary, config=NamingConfig(**options, distinguish=False))
        found = assign_names(rows, vocabulary, config=NamingConfig(**options))
        assert base_names(found) == [name.name for name in plain]
