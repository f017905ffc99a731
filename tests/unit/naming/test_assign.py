from pathlib import Path

import numpy as np
import pytest
import torch

from dncbm.errors import ArtifactMismatch, InvalidInput
from dncbm.naming.assign import assign_names, name_dictionary
from dncbm.naming.config import NamingConfig, naming_preset
from dncbm.naming.quality import null_directions
from dncbm.naming.vocabulary import Vocabulary
from tests.oracles.naming import centred, false_name_threshold, ranking, unit, without_axis

from .conftest import make_vocabulary

PAPER = naming_preset("paper")


def directions(rng: np.random.Generator, count: int = 15, width: int = 12) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=(count, width)).astype(np.float32)) * 3


def test_paper_rule_agrees_with_the_oracle(
    rng: np.random.Generator, vocabulary: Vocabulary
) -> None:
    rows = directions(rng)
    names = assign_names(rows, vocabulary, config=PAPER)
    for concept, name in enumerate(names):
        truth = ranking(rows[concept].numpy(), vocabulary.embeddings.numpy())
        assert name.concept == concept
        assert name.status == "named"
        assert name.name == vocabulary.words[truth[0][0]]
        assert name.score == pytest.approx(truth[0][1], abs=2e-7)
        assert name.margin == pytest.approx(truth[0][1] - truth[1][1], abs=2e-7)
        expected = [(vocabulary.words[row], score) for row, score in truth[1:6]]
        assert [word for word, _ in name.alternatives] == [word for word, _ in expected]
        np.testing.assert_allclose(
            [score for _, score in name.alternatives], [s for _, s in expected], atol=2e-7
        )


def test_words_that_the_encoder_cannot_tell_apart_share_a_group() -> None:
    words = np.array([[1.0, 0.0, 0.0], [1.0, 0.17, 0.0], [0.0, 0.0, 1.0], [1.0, 0.35, 0.0]])
    vocabulary = make_vocabulary(["t-shirt", "tee shirt", "hat", "tee"], words)
    rows = torch.from_numpy(words[[2, 3, 0, 2, 1]]).float()
    found = assign_names(rows, vocabulary, config=PAPER)
    assert [name.name for name in found] == ["hat", "tee", "t-shirt", "hat", "tee shirt"]
    # t-shirt and tee are alike through tee shirt, whatever their own distance
    assert [name.group for name in found] == [0, 1, 1, 0, 1]


def test_concepts_that_never_fire_have_no_name_and_no_part_in_the_threshold(
    rng: np.random.Generator, vocabulary: Vocabulary
) -> None:
    rows = directions(rng, 30)
    rows[20:] = vocabulary.embeddings[:10]  # each is a word exactly, yet nothing fires
    active = torch.arange(30) < 20
    config = NamingConfig(false_name_rate=0.3)
    found = name_dictionary(rows, vocabulary, config=config, active=active)
    assert {name.status for name in found.names[20:]} == {"unnamed"}
    alone = name_dictionary(rows[:20], vocabulary, config=config)
    assert found.threshold == pytest.approx(alone.threshold)
    assert found.names[:20] == alone.names
    none = name_dictionary(rows, vocabulary, config=config, active=torch.zeros(30).bool())
    assert {name.status for name in none.names} == {"unnamed"}
    every = name_dictionary(rows, vocabulary, config=PAPER, active=active)
    assert {name.status for name in every.names} == {"named"}


def test_centred_names_and_threshold_agree_with_the_oracle(
    rng: np.random.Generator, vocabulary: Vocabulary
) -> None:
    rows, mean = directions(rng, 30), rng.normal(size=12)
    config = NamingConfig(centring="words+directions", false_name_rate=0.3, null_directions=150)
    found = name_dictionary(
        rows, vocabulary, config=config, image_mean=torch.from_numpy(mean).float()
    )
    words = centred(vocabulary.embeddings.numpy())
    clean = np.stack([unit(without_axis(row, mean)) for row in rows.numpy()])
    null = null_directions(torch.from_numpy(clean).float(), 150, seed=0).numpy()
    threshold = false_name_threshold(null, words, 0.3)
    assert found.threshold == pytest.approx(threshold, abs=2e-6)
    assert {name.status for name in found.names} == {"named", "unnamed"}
    for concept, name in enumerate(found.names):
        truth = ranking(clean[concept], words)
        assert name.score == pytest.approx(truth[0][1], abs=2e-6)
        assert (name.status == "named") == (truth[0][1] >= threshold)
        best = name.name if name.status == "named" else name.alternatives[0][0]
        assert best == vocabulary.words[truth[0][0]]
        assert len(name.alternatives) == 5


def test_words_centring_ignores_the_image_mean(
    rng: np.random.Generator, vocabulary: Vocabulary
) -> None:
    rows = directions(rng)
    config = NamingConfig(centring="words", false_name_rate=None, distinguish=False)
    words = centred(vocabulary.embeddings.numpy())
    for mean in (None, torch.ones(12)):
        names = assign_names(rows, vocabulary, config=config, image_mean=mean)
        expected = [vocabulary.words[ranking(row, words)[0][0]] for row in rows.numpy()]
        assert [name.name for name in names] == expected


def test_unnamed_concepts_say_so(rng: np.random.Generator) -> None:
    words = make_vocabulary(["left", "right", "up"], np.eye(4)[:3])
    rows = torch.tensor([[1.0, 0.1, 0.0, 0.0], [0.5, 0.5, 0.5, 2.0]])
    config = NamingConfig(centring="none", min_margin=0.2, false_name_rate=None, alternatives=2)
    first, second = assign_names(rows, words, config=config)
    assert (first.name, first.status) == ("left", "named")
    assert (second.name, second.status, second.group) == ("concept 1", "unnamed", 1)
    assert [word for word, _ in second.alternatives] == ["left", "right"]


def test_one_name_makes_one_group(rng: np.random.Generator, vocabulary: Vocabulary) -> None:
    rows = vocabulary.embeddings[[4, 7, 4, 7, 9]]
    assert [n.group for n in assign_names(rows, vocabulary, config=PAPER)] == [0, 1, 0, 1, 4]


def test_ties_go_to_the_earlier_word() -> None:
    words = make_vocabulary(["b", "a", "c"], np.array([[1, 0], [1, 0], [0, 1]]))
    for _ in range(3):
        name = assign_names(torch.tensor([[2.0, 0.0]]), words, config=PAPER)[0]
        assert (name.name, name.margin, name.alternatives[0][0]) == ("b", 0.0, "a")


def test_blocked_words_are_never_shown(rng: np.random.Generator) -> None:
    words = make_vocabulary(["gun", "toy gun", "porn star", "tree", "sea"], np.eye(5) + 0.05)
    config = NamingConfig(centring="none", false_name_rate=None, blocked_words=("gun*",))
    names = assign_names(torch.eye(5), words, config=config)
    shown = {word for n in names for word in [n.name, *(w for w, _ in n.alternatives)]}
    assert shown == {"tree", "sea"}


def test_a_concept_that_only_a_blocked_word_fits_is_blocked(rng: np.random.Generator) -> None:
    words = make_vocabulary(["gun", "tree", "sea", "sky"], np.eye(6)[:4])
    rows = torch.cat([torch.eye(6), -torch.eye(6)[4:]])
    config = NamingConfig(centring="none", min_margin=0.5, blocked_words=("gun",))
    names = assign_names(rows, words, config=config)
    assert (names[0].status, names[0].name, names[0].group) == ("blocked", "concept 0", 0)
    assert "gun" not in {word for word, _ in names[0].alternatives}
    assert names[5].status == "unnamed"


def test_blocking_too_much_is_refused(vocabulary: Vocabulary) -> None:
    config = NamingConfig(blocked_words=("word",))
    with pytest.raises(InvalidInput, match="block list leaves 0 of 40 words"):
        assign_names(torch.ones(2, 12), vocabulary, config=config)


def test_other_encoder_is_refused(vocabulary: Vocabulary) -> None:
    assert assign_names(torch.ones(2, 12), vocabulary, encoder_fingerprint="e" * 64)
    with pytest.raises(ArtifactMismatch, match="eeeeeeeeeeee.*dddddddddddd"):
        assign_names(torch.ones(2, 12), vocabulary, encoder_fingerprint="d" * 64)


def test_bad_dictionaries(vocabulary: Vocabulary) -> None:
    with pytest.raises(InvalidInput, match="dictionary has width 9, the vocabulary has width 12"):
        assign_names(torch.ones(2, 9), vocabulary)
    with pytest.raises(InvalidInput, match="no concepts to name"):
        assign_names(torch.ones(0, 12), vocabulary)
    rows = torch.ones(3, 12)
    rows[1, 4] = float("nan")
    with pytest.raises(InvalidInput, match="1 dictionary vectors are not finite.*row 1"):
        assign_names(rows, vocabulary)
    with pytest.raises(InvalidInput, match="length 0, the first is row 0"):
        assign_names(torch.zeros(2, 12), vocabulary)


def test_approximate_index_names_alike_and_tells_its_recall(rng: np.random.Generator) -> None:
    words = make_vocabulary([f"word {i}" for i in range(600)], rng.normal(size=(600, 12)))
    rows = directions(rng, 300)
    exact = name_dictionary(rows, words)
    near = name_dictionary(rows, words, config=NamingConfig(index="approximate"))
    assert exact.index_recall == 1.0
    assert near.index_recall > 0.95
    same = [a.name == b.name for a, b in zip(exact.names, near.names, strict=True)]
    assert np.mean(same) > 0.9


def test_planted_words_are_found_again(rng: np.random.Generator, vocabulary: Vocabulary) -> None:
    noise = torch.from_numpy(rng.normal(size=(40, 12))).float() * 0.02
    names = assign_names(vocabulary.embeddings + noise, vocabulary, config=PAPER)
    assert [name.name for name in names] == list(vocabulary.words)


def test_large_dictionary_and_vocabulary_stay_within_blocks(rng: np.random.Generator) -> None:
    generator = torch.Generator().manual_seed(0)
    words = make_vocabulary(
        [f"word {i}" for i in range(20_000)], torch.randn(20_000, 16, generator=generator)
    )
    rows = torch.randn(2100, 16, generator=generator)
    config = NamingConfig(null_directions=200)
    assert len(assign_names(rows, words, config=config)) == 2100


def test_true_clip_zero_shot_from_embeddings_alone(shared_data: Path) -> None:
    from examples.true_clip_names import LVIS, PLAIN, read_images, read_vocabulary, zero_shot

    folder = shared_data / "clip_vitb32"
    images, labels = read_images(folder)
    vocabulary = read_vocabulary(folder)
    assert len(vocabulary.words) == 1612
    assert zero_shot(images, labels, vocabulary, LVIS) == pytest.approx(0.882)
    assert zero_shot(images, labels, vocabulary, PLAIN) == pytest.approx(0.898)
