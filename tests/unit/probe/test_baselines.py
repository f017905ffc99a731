import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dncbm.errors import InvalidInput
from dncbm.probe.baselines import linear_probe_accuracy, zero_shot_accuracy


@pytest.fixture(scope="module")
def clouds():
    draw = np.random.default_rng(3)
    centres = draw.standard_normal((3, 16))
    labels = {
        "train": np.arange(150) % 3,
        "validation": np.arange(60) % 3,
        "test": np.arange(90) % 3,
    }
    noisy = {
        name: 5.0 + centres[y] * 3 + 6.0 * draw.standard_normal((len(y), 16))
        for name, y in labels.items()
    }
    return noisy, labels, centres


def test_zero_shot_takes_the_nearest_text_by_cosine():
    texts = torch.tensor([[10.0, 0.0], [0.0, 0.1]])
    images = torch.tensor([[1.0, 0.5], [1.0, 2.0], [3.0, 0.0]])
    assert zero_shot_accuracy(images, texts, [0, 1, 1]) == pytest.approx(2 / 3)


def test_zero_shot_refuses_what_does_not_fit():
    with pytest.raises(InvalidInput, match="width 3, text embeddings 2"):
        zero_shot_accuracy(np.ones((2, 3)), np.ones((2, 2)), [0, 1])
    with pytest.raises(InvalidInput, match="non-empty finite matrix"):
        zero_shot_accuracy(np.full((2, 2), np.nan), np.ones((2, 2)), [0, 1])
    with pytest.raises(InvalidInput, match="2 embeddings, but 1 labels"):
        zero_shot_accuracy(np.ones((2, 2)), np.ones((2, 2)), [0])


def test_linear_probe_is_as_good_as_scikit_learn(clouds):
    embeddings, labels, _ = clouds
    ours = linear_probe_accuracy(embeddings, labels, ("a", "b", "c"))
    scaler = StandardScaler().fit(embeddings["train"])
    models = [
        LogisticRegression(C=c, max_iter=1000).fit(
            scaler.transform(embeddings["train"]), labels["train"]
        )
        for c in (1e-3, 1e-2, 1e-1, 1.0)
    ]
    scores = [
        m.score(scaler.transform(embeddings["validation"]), labels["validation"]) for m in models
    ]
    theirs = models[int(np.argmax(scores))].score(
        scaler.transform(embeddings["test"]), labels["test"]
    )
    assert set(ours) == {"train", "validation", "test"}
    assert ours["test"] >= theirs - 0.05
    assert ours["validation"] >= max(scores) - 0.05


def test_a_constant_coordinate_does_no_harm(clouds):
    embeddings, labels, _ = clouds
    widened = {name: np.hstack([x, np.ones((len(x), 1))]) for name, x in embeddings.items()}
    assert linear_probe_accuracy(widened, labels, ("a", "b", "c"))["test"] == pytest.approx(
        linear_probe_accuracy(embeddings, labels, ("a", "b", "c"))["test"], abs=0.03
    )
