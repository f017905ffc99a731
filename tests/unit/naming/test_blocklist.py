import random

import pytest

from dncbm.naming.blocklist import default_blocklist, parse_rules
from dncbm.naming.vocabulary import read_words


def test_rules_match_tokens_stems_phrases_and_exemptions() -> None:
    rules = parse_rules(["# a comment", "", "Ash", "por*", "!portrait", "red light", "hot-pot"])
    blocked = ["ash", "ASH tray", "pile of ash.", "pork", "a red light on", "hot pot"]
    allowed = ["ashtray", "bash", "portrait", "red traffic light", "light red", "pot", "hot"]
    assert [word for word in blocked if not rules.blocks(word)] == []
    assert [word for word in allowed if rules.blocks(word)] == []


def test_hyphens_underscores_and_slashes_separate_tokens() -> None:
    rules = parse_rules(["ash"])
    assert all(
        rules.blocks(word) for word in ("ash-tree", "ash_tree", "tree/ash", "(ash)", "ash's")
    )


def test_user_rules_add_to_the_list_that_ships() -> None:
    rules = default_blocklist().with_words(["gun*", "!gunnel"])
    assert rules.blocks("toy gun")
    assert rules.blocks("gunpowder")
    assert not rules.blocks("gunnel")
    assert rules.blocks("porn")


@pytest.mark.parametrize(
    "word",
    ["sextant", "cockatoo", "cocktail", "cockpit", "assassin", "grass", "class", "shitake mushroom",
     "button", "butterfly", "rapeseed field", "scunthorpe", "crucifix", "analog clock",
     "condominium", "arsenal", "pussycat", "drugstore", "document", "cucumber", "hoodie",
     "dickens", "basement", "bassoon", "penguin", "peacock", "therapist", "titmouse"],
)  # fmt: skip
def test_harmless_words_that_hold_a_stem_pass(word: str) -> None:
    assert not default_blocklist().blocks(word)


def test_no_word_of_the_bundled_list_is_blocked() -> None:
    rules = default_blocklist()
    assert [word for word in read_words() if rules.blocks(word)] == []


def test_blocked_words_are_found_inside_any_phrase() -> None:
    rules = default_blocklist()
    chosen = random.Random(0).sample(sorted(rules.words), 60)
    assert all(rules.blocks(f"a {word} in a picture") for word in chosen)
    assert all(rules.blocks(f"{word}s") for word in chosen)
