import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dncbm.errors import InvalidInput
from dncbm.probe import baselines
from dncbm.probe.baselines import linear_probe_accuracy, zero_shot_accuracy
from dncbm.probe.splits import hold_out
from dncbm.probe.train import ProbeConfig, train_probe


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
    ours = linear_probe_accuracy(embeddings, labels, ("a", "b", "c"), ProbeConfig())
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
    assert set(ours) == {"train", "validation", "test", "fitted_rows"}
    assert ours["fitted_rows"] == 150
    assert ours["test"] >= theirs - 0.05
    assert ours["validation"] >= max(scores) - 0.05


def test_a_linear_probe_refuses_what_does_not_fit(clouds):
    embeddings, labels, _ = clouds
    narrow = embeddings | {"test": embeddings["test"][:, :9]}
    with pytest.raises(InvalidInput, match="width 16, test embeddings 9"):
        linear_probe_accuracy(narrow, labels, ("a", "b", "c"), ProbeConfig())
    with pytest.raises(InvalidInput, match=r"shape \(150,\)"):
        linear_probe_accuracy(embeddings["train"][:, 0], labels["train"], "abc", ProbeConfig())


@pytest.mark.parametrize("value", [1.0, 0.1])
def test_a_constant_coordinate_does_no_harm(clouds, value):
    embeddings, labels, _ = clouds
    widened = {name: np.hstack([x, np.full((len(x), 1), value)]) for name, x in embeddings.items()}
    assert linear_probe_accuracy(widened, labels, ("a", "b", "c"), ProbeConfig())[
        "test"
    ] == pytest.approx(
        linear_probe_accuracy(embeddings, labels, ("a", "b", "c"), ProbeConfig())["test"], abs=0.03
    )


def test_rounding_errors_of_a_constant_coordinate_are_no_scale(clouds, monkeypatch):
    embeddings, labels, _ = clouds
    widened = np.hstack([embeddings["train"], np.full((150, 1), 0.37)])
    assert 0.0 < widened[:, -1].std() < 1e-12
    scales = []
    real = baselines.dense_fits
    monkeypatch.setattr(baselines, "dense_fits", lambda b, d: scales.append(d.scale) or real(b, d))
    linear_probe_accuracy(widened, labels["train"], ("a", "b", "c"), ProbeConfig())
    assert scales[0][-1] == 1.0


def test_the_linear_probe_has_the_candidates_and_rows_of_the_dense_probe(clouds, monkeypatch):
    embeddings, labels, _ = clouds
    config = ProbeConfig(necs=(), balanced=True, validation_fraction=0.3, seed=5, tolerance=0.02)
    fits = {}

    def seen(name):
        real = baselines.dense_fits

        def dense_fits(bench, design):
            found = real(bench, design)
            names = {fit.name.rsplit("-", 1)[0] for fit in found}
            rows = bench.validation.labels, design.labels
            fits[name] = names, bench.options.tolerance, design.matrix.dtype, rows
            return found

        return dense_fits

    data = embeddings["train"], labels["train"] * (labels["train"] > 0), ("a", "b", "c")
    data[1][:20] = 1
    with monkeypatch.context() as patch:
        patch.setattr("dncbm.probe.train.dense_fits", seen("codes"))
        train_probe(*data, config)
    monkeypatch.setattr(baselines, "dense_fits", seen("embeddings"))
    linear_probe_accuracy(*data, config)
    assert fits["codes"][:3] == fits["embeddings"][:3]
    assert fits["codes"][0] == {"ridge-scaled", "ridge-raw"}
    for ours, theirs in zip(fits["codes"][3], fits["embeddings"][3], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_many_rows_are_sampled_and_the_result_says_so(clouds, monkeypatch):
    embeddings, labels, _ = clouds
    everything = np.vstack(list(embeddings.values()))
    answers = np.concatenate(list(labels.values()))
    data = {"train": everything, "test": embeddings["test"]}
    truth = {"train": answers, "test": labels["test"]}
    whole = linear_probe_accuracy(data, truth, ("a", "b", "c"), ProbeConfig())
    monkeypatch.setattr(baselines, "MOST_ROWS", 150)
    monkeypatch.setattr(baselines, "_BLOCK_ROWS", 7)
    seen = []
    real = baselines._fit
    monkeypatch.setattr(baselines, "_fit", lambda *a: seen.append(a[0]) or real(*a))
    found = linear_probe_accuracy(data, truth, ("a", "b", "c"), ProbeConfig())
    again = linear_probe_accuracy(data, truth, ("a", "b", "c"), ProbeConfig())
    assert found == again
    assert whole["fitted_rows"] == 270
    assert found["fitted_rows"] == 150
    assert found["test"] == pytest.approx(whole["test"], abs=0.1)
    assert np.bincount(seen[0].train.labels).tolist() == [50, 50, 50]
    assert seen[0].train.matrix.dtype == np.float32
    held = hold_out(answers, 0.1, 0)
    np.testing.assert_array_equal(seen[0].validation.matrix, everything[held].astype(np.float32))


def test_blocks_score_as_one(rng, monkeypatch):
    values, weights, bias = rng.random((50, 4)), rng.random((3, 4)), rng.random(3)
    labels = (values @ weights.T + bias).argmax(axis=1)
    labels[:5] = (labels[:5] + 1) % 3
    monkeypatch.setattr(baselines, "_BLOCK_ROWS", 8)
    assert baselines._accuracy(values, labels, weights, bias) == pytest.approx(0.9)
