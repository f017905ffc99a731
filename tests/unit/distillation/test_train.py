"""Distilling classifiers: pairs, figures, resumption, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dncbm.attribution.scores import mass_ratio
from dncbm.data.views import Views
from dncbm.distillation import loss as losses
from dncbm.distillation import train as module
from dncbm.distillation.config import Distillation
from dncbm.distillation.explanations import Explainer
from dncbm.distillation.frozen import freeze
from dncbm.distillation.shots import few_shots
from dncbm.distillation.train import distil_classifier, explainers
from dncbm.distillation.viewed import Viewed, common_views
from dncbm.errors import ArtifactMismatch, InvalidInput, UnknownName
from dncbm.training.photos import Photos, Run
from dncbm.training.seeding import seeded_by
from tests.unit.distillation.parts import bcos, cnn, photos, vit


def _config(**changes: Any) -> Distillation:
    values: dict[str, Any] = {
        "steps": 3, "batch_size": 6, "evaluate_every": 2, "precision": "float32",
    }  # fmt: skip
    return Distillation(**values | changes)


def _run(path: Path, purpose: str = "") -> Run:
    return Run(checkpoint=path / "run.safetensors", purpose=purpose)


@pytest.mark.parametrize(
    ("student", "teacher", "kind"),
    [
        (cnn, cnn, "gradcam"), (vit, cnn, "gradcam"), (cnn, vit, "ixg"),
        (bcos, bcos, "bcos"), (cnn, bcos, "gradcam"), (cnn, cnn, "intgrad"),
    ],
)  # fmt: skip
def test_any_pair_learns(
    student: Callable[..., Viewed], teacher: Callable[..., Viewed], kind: str, tmp_path: Path
) -> None:
    """The student moves, the teacher does not, and all figures are there."""
    pupil, guide, found = student(seed=1), teacher(seed=2), photos()
    before = [{k: v.clone() for k, v in side.state_dict().items()} for side in (pupil, guide)]
    history = distil_classifier(
        pupil, guide, found, _config(explanation=kind, path_steps=2), _run(tmp_path)
    )
    assert {"explanation", "logits"} <= history[-2].keys() | history[0].keys()
    names = {"accuracy", "teacher_accuracy", "agreement", "explanation_similarity"}
    assert {f"held_out_{name}" for name in names} <= history[-1].keys()
    assert all(torch.equal(v, before[1][k]) for k, v in guide.state_dict().items())
    assert not all(torch.equal(v, before[0][k]) for k, v in pupil.state_dict().items())


def test_a_batch_teaches_what_the_definition_says(tmp_path: Path) -> None:
    """Losses of the first update against the same put together by hand."""
    student, teacher, found = cnn(seed=1), cnn(seed=2).eval(), photos()
    config = _config(steps=1, explanation="gradcam", weight=5.0, temperature=3.0, label_weight=0.5)
    copy = cnn(seed=1).train()
    seen: list[Any] = []
    original = module._Task.losses

    def noting(task: Any, batch: Any) -> Any:
        named = original(task, batch)
        seen.append((batch, {k: v.detach().clone() for k, v in named.items()}))
        return named

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Task, "losses", noting)
        distil_classifier(student, teacher, found, config, _run(tmp_path))
    [(batch, named)] = seen
    pixels = teacher.views.cropped(batch.levels, batch.boxes)
    theirs = Explainer(kind="gradcam", layer="layer4")(teacher.network, pixels)
    best = theirs.logits.argmax(1)
    ours = Explainer(kind="gradcam", layer="layer4")(copy.network, pixels, best, create_graph=True)
    maps = [functional.interpolate(m, (16, 16), mode="bilinear") for m in (ours.maps, theirs.maps)]
    wanted = {
        "explanation": 5.0 * losses.explanation_loss(*maps),
        "logits": losses.logit_loss(ours.logits, theirs.logits, 3.0),
        "labels": 0.5 * functional.cross_entropy(ours.logits, found.truth(batch.rows)),
    }
    assert named.keys() == wanted.keys()
    for name, value in wanted.items():
        assert float(named[name]) == pytest.approx(value.item(), rel=1e-4), name


def test_explanations_every_few_steps_and_not_at_all_with_no_weight(tmp_path: Path) -> None:
    asked: list[bool] = []
    original = Explainer.__call__

    def counting(self: Any, *arguments: Any, create_graph: bool = False) -> Any:
        asked.append(create_graph)
        return original(self, *arguments, create_graph=create_graph)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Explainer, "__call__", counting)
        for number, (changes, guided) in enumerate(
            [({"every": 2}, 2), ({"weight": 0.0}, 0), ({}, 3)]
        ):
            asked.clear()
            config = _config(explanation="gradcam", **changes)
            history = distil_classifier(
                cnn(), cnn(seed=1), photos(), config, _run(tmp_path / str(number))
            )
            assert sum(asked) == guided
            assert "held_out_explanation_similarity" in history[-1]


@pytest.mark.parametrize("kind", ["gradcam", "bcos"])
def test_frozen_explanations_are_learned(kind: str, tmp_path: Path) -> None:
    """Without random crops they are what the live teacher says."""
    side = bcos if kind == "bcos" else cnn
    found, config = photos(side=16), _config(explanation=kind, steps=2)
    results = []
    for way in ("live", "frozen"):
        pupil, guide = side(seed=1), side(seed=2)
        still = Views(
            size=16, mean=pupil.views.mean, std=pupil.views.std, smallest=1.0, longest=1.0,
            mirrored=False,
        )  # fmt: skip
        pupil = Viewed(pupil.network, still)
        frozen = None
        if way == "frozen":
            views = common_views([pupil.views, guide.views])
            pair = explainers(pupil, guide, found, views, config, "cpu")
            assert pair is not None
            frozen = freeze(guide, pair[1], found, tmp_path / "cache",
                            marks={"teacher": "t", "photos": "p"})  # fmt: skip
        history = distil_classifier(
            pupil, guide, found, config, _run(tmp_path / way), frozen=frozen
        )
        results.append(history[0])
    for name in ("explanation", "logits"):
        assert results[0][name] == pytest.approx(results[1][name], rel=2e-3)


@pytest.mark.parametrize("kind", ["gradcam", "bcos"])
def test_a_killed_training_ends_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    """Dropout in the student included."""

    def trained(folder: Path, die_at: int | None) -> Viewed:
        student = bcos(seed=1) if kind == "bcos" else vit(seed=1)
        teacher = bcos(seed=2) if kind == "bcos" else cnn(seed=2)

        def dying(step: int, _steps: int) -> None:
            if step == die_at:
                raise KeyboardInterrupt

        run = Run(checkpoint=folder / "run.safetensors", on_step=dying)
        config = _config(explanation=kind, steps=5, every=2)
        distil_classifier(student, teacher, photos(), config, run)
        return student

    whole = trained(tmp_path / "a", None)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "b", 3)
    torch.rand(7)  # another state of the global generator than the first process had
    resumed = trained(tmp_path / "b", None)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    with pytest.raises(ArtifactMismatch):
        distil_classifier(
            bcos() if kind == "bcos" else vit(), bcos(), photos(), _config(steps=5),
            _run(tmp_path / "b", "other"),
        )  # fmt: skip


def test_each_network_has_its_own_pixels_of_the_same_crop() -> None:
    """Other sizes, means and deviations: the larger crop is common, the smaller one shrunk."""
    found = photos(side=40)
    big, small = cnn(size=32), bcos()
    views = common_views([small.views, big.views])
    assert (views.size, views.mean, views.std) == (32, (0.0,) * 3, (1.0,) * 3)
    levels = found.read(np.arange(4))
    boxes = views.draw(4, torch.Generator().manual_seed(0))
    shares = views.cropped(levels, boxes)
    seen: list[Tensor] = []
    for side in (big, small):
        side.network.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        side.eval()(shares)
    assert torch.equal(seen[0], big.views.cropped(levels, boxes))
    assert seen[1].shape[-1] == 16
    assert torch.allclose(seen[1], functional.avg_pool2d(shares, 2), atol=0.15)
    means = [torch.tensor(v)[:, None, None] for v in (big.views.mean, big.views.std)]
    plain = seen[0] * means[1] + means[0]
    assert torch.allclose(functional.avg_pool2d(plain, 2).mean(), seen[1].mean(), atol=1e-2)


def test_other_pixels_train_too(tmp_path: Path) -> None:
    config = _config(explanation="gradcam")
    for student, teacher in ((cnn(size=32), bcos()), (bcos(), cnn(size=32))):
        folder = tmp_path / str(student.views.size)
        history = distil_classifier(student, teacher, photos(side=40), config, _run(folder))
        assert "held_out_explanation_similarity" in history[-1]


def test_figures(tmp_path: Path) -> None:
    """A student that is its teacher agrees fully; EPG is the mass within the masks."""
    teacher, found = cnn(seed=2), photos(40)
    student = cnn(seed=2)
    masks = torch.zeros(10, 20, 20, dtype=torch.bool)
    masks[:, 4:14, 4:14] = True
    config = _config(steps=1, learning_rate=1e-12, explanation="gradcam")
    with torch.no_grad():  # running statistics that one update does not move
        for part in student.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = 0.0
    row = distil_classifier(student, teacher, found, config, _run(tmp_path), masks=masks)[-1]
    assert row["held_out_agreement"] == 1.0
    assert row["held_out_explanation_similarity"] == pytest.approx(1, abs=1e-5)
    assert row["held_out_accuracy"] == row["held_out_teacher_accuracy"]
    pixels = teacher.views.whole(found.read(found.held_out))
    of = Explainer(kind="gradcam", layer="layer4")
    best = teacher.network(pixels).argmax(1)
    maps = of.contributions(teacher.network, pixels, best)
    small = functional.interpolate(masks[:, None].float(), (16, 16), mode="nearest-exact") > 0.5
    assert row["held_out_epg"] == pytest.approx(
        float(mass_ratio(maps[:, None], small).mean()), 1e-4
    )


def test_without_labels_and_without_held_out_photos(tmp_path: Path) -> None:
    found = photos()
    blind = Photos(images=found.images, train=found.train, held_out=found.held_out)
    row = distil_classifier(cnn(), cnn(), blind, _config(), _run(tmp_path / "a"))[-1]
    assert "held_out_agreement" in row
    assert "held_out_accuracy" not in row
    alone = Photos(images=found.images, train=found.train)
    history = distil_classifier(cnn(), cnn(), alone, _config(), _run(tmp_path / "b"))
    assert not any(key.startswith("held_out") for r in history for key in r)


def test_several_labels(tmp_path: Path) -> None:
    config = _config(multi_label=True, label_weight=1.0)
    history = distil_classifier(cnn(), cnn(), photos(), config, _run(tmp_path))
    assert {"logits", "labels"} <= history[-2].keys() | history[0].keys()


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="salience"):
        _config(explanation="salience")
    for name, value in (("temperature", 0.0), ("every", 0), ("weight", -1.0)):
        with pytest.raises(InvalidInput, match=name):
            _config(**{name: value})
    with pytest.raises(InvalidInput, match="one shape"):
        distil_classifier(cnn(3), cnn(4), photos(), _config(), _run(tmp_path / "a"))
    with pytest.raises(InvalidInput, match="no B-cos network"):
        distil_classifier(
            cnn(), bcos(), photos(), _config(explanation="bcos"), _run(tmp_path / "b")
        )
    masks = torch.ones(2, 4, 4, dtype=torch.bool)
    with pytest.raises(InvalidInput, match="2 masks for 6"):
        distil_classifier(cnn(), cnn(), photos(), _config(), _run(tmp_path), masks=masks)
    found = photos()
    found.labels[9] = -1  # type: ignore[index]
    with pytest.raises(InvalidInput, match="no label"):
        distil_classifier(cnn(), cnn(), found, _config(label_weight=1.0), _run(tmp_path))


def test_few_shots() -> None:
    """Drawn by the seed, each class by itself; too few photos of one are told by its name."""
    found = photos(40)
    assert found.labels is not None
    few = few_shots(found, 4, seed=1)
    assert np.bincount(found.labels[few.train]).tolist() == [4, 4, 4]
    assert set(few.train) <= set(found.train)
    assert np.array_equal(few.held_out, found.held_out)
    assert np.array_equal(few.train, few_shots(found, 4, seed=1).train)
    assert not np.array_equal(few.train, few_shots(found, 4, seed=2).train)
    less = Photos(images=found.images, train=found.train[found.labels[found.train] != 0],
                  labels=found.labels)  # fmt: skip
    own = few.train[found.labels[few.train] != 0]
    assert np.array_equal(few_shots(less, 4, seed=1).train, own)
    single = Photos(images=found.images, train=np.array([10, 11, 12, 14]), labels=found.labels)
    assert len(few_shots(single, 1).train) == 3
    with pytest.raises(InvalidInput, match=r"'cat' has 1 training photo; 2 shots.*--shots 1"):
        few_shots(single, 2, names=("cat", "dog", "boat"))
    with pytest.raises(InvalidInput, match="shots is 0"):
        few_shots(found, 0)


def test_draws_within_a_step_follow_from_its_stream() -> None:
    torch.manual_seed(0)
    before = torch.rand(2)
    torch.manual_seed(0)
    found = []
    for _ in range(2):
        with seeded_by(torch.Generator().manual_seed(4)):
            found.append(torch.rand(3))
    assert torch.equal(*found)
    assert torch.equal(torch.rand(2), before)
