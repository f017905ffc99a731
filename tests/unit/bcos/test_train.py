"""Training on labels and on a teacher: it learns, resumes exactly, and refuses what cannot work."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.layers import BcosConv2d, LogitLayer, logit_bias
from dncbm.bcos.norms import BatchNormUncentered2d
from dncbm.bcos.train import TrainingConfig, agreement, train_classifier, train_student
from dncbm.data.views import Views
from dncbm.errors import ArtifactMismatch, InvalidInput, UnknownName
from dncbm.training.photos import Batches, Photos, Run, accuracy
from dncbm.training.workers import ALONE

VIEWS = Views(size=8, smallest=0.6)


class _Stop(Exception):
    """Stands for a kill."""


def _network(width: int = 3, *, classes: bool = True) -> ImageModel:
    """A B-cos network of two layers; the last is a classifier or an embedding."""
    torch.manual_seed(4)
    parts = [
        BcosConv2d(6, 8, 3, padding=1),
        BatchNormUncentered2d(8),
        BcosConv2d(8, width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        LogitLayer(bias=logit_bias(width)) if classes else nn.Identity(),
    ]
    return ImageModel(nn.Sequential(*parts), encoding="inverse").to(
        memory_format=torch.channels_last
    )


def _photos(count: int = 60, *, labels: bool = True) -> Photos:
    """Red, green and blue noise; the last fifth is held out."""
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 120, (count, 3, 10, 10), generator=draw, dtype=torch.uint8)
    truth = torch.arange(count) % 3
    images[torch.arange(count), truth] += 100
    rows = np.arange(count)
    cut = count * 4 // 5
    return Photos(
        images=images,
        train=rows[:cut],
        held_out=rows[cut:],
        labels=truth.numpy() if labels else None,
    )


def _config(**changes: Any) -> TrainingConfig:
    settings: dict[str, Any] = {
        "steps": 12, "batch_size": 16, "learning_rate": 0.02, "evaluate_every": 4,
        "adaptive_clipping": None,
    }  # fmt: skip
    return TrainingConfig(**settings | changes)


def _stop_at(wanted: int) -> Any:
    def on_step(step: int, steps: int) -> None:
        if step == wanted:
            raise _Stop

    return on_step


@pytest.mark.parametrize("loss", ["uniform-off-label", "bce", "cross-entropy"])
def test_a_classifier_learns_and_says_so(tmp_path: Path, loss: str) -> None:
    """Colours are told apart after a few updates; the history has losses and accuracies."""
    network, photos = _network(), _photos()
    config = _config(steps=60, loss=loss, evaluate_every=20)
    history = train_classifier(network, photos, VIEWS, config, Run(checkpoint=tmp_path / "c"))
    measured = [row["held_out_accuracy"] for row in history if "held_out_accuracy" in row]
    assert len(measured) == 3
    assert measured[-1] == accuracy(network, photos, VIEWS, "cpu") > 0.9
    losses = [row[loss] for row in history if loss in row]
    assert losses[-1] < losses[0]
    assert not network.training


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Photos, order, crops, optimizer: all of a resumed run is that of an uninterrupted one."""
    photos, config = _photos(), _config(adaptive_clipping=0.1)
    whole = _network()
    rows = train_classifier(whole, photos, VIEWS, config, Run(checkpoint=tmp_path / "a"))
    with pytest.raises(_Stop):
        run = Run(checkpoint=tmp_path / "b", on_step=_stop_at(7))
        train_classifier(_network(), photos, VIEWS, config, run)
    again = _network()
    assert train_classifier(again, photos, VIEWS, config, Run(checkpoint=tmp_path / "b")) == rows
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.parametrize("loss", ["pairwise", "cosine"])
def test_a_student_comes_nearer_to_its_teacher(tmp_path: Path, loss: str) -> None:
    """Without labels; the teacher stays as it was, in eval mode and without gradients."""
    torch.manual_seed(2)
    teacher = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student, photos = _network(5, classes=False), _photos(labels=False)
    start = agreement(student.eval(), teacher.eval(), photos, VIEWS, "cpu")["cosine"]
    config = _config(steps=60, loss=loss)
    history = train_student(student, teacher, photos, VIEWS, config, Run(checkpoint=tmp_path / "c"))
    assert history[-1]["held_out_cosine"] > max(start, 0.5)
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_student_and_teacher_see_the_same_pixels(tmp_path: Path) -> None:
    """A student that is its teacher is at distance 0, whatever the crops."""
    teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    student.load_state_dict(teacher.state_dict())
    config = _config(steps=1, loss="cosine")
    run = Run(checkpoint=tmp_path / "c")
    history = train_student(student, teacher, _photos(), VIEWS, config, run)
    assert history[0]["cosine_distance"] == pytest.approx(0, abs=1e-6)


def test_zero_shot_accuracy_stands_beside_the_teachers() -> None:
    """Class texts that are the colours themselves: mean pixels find them all."""
    teacher = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    blind = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3, bias=False))
    nn.init.constant_(blind[2].weight, 1.0)
    photos = _photos()
    found = agreement(blind, teacher, photos, VIEWS, "cpu", texts=torch.eye(3))
    assert found["teacher_zero_shot"] == 1.0
    assert found["zero_shot"] == pytest.approx(1 / 3)
    assert 0 < found["cosine"] < 1
    assert "zero_shot" not in agreement(blind, teacher, _photos(labels=False), VIEWS, "cpu")


def test_a_value_can_be_annealed(tmp_path: Path) -> None:
    """The callback knows the step and how many there are."""
    seen: list[tuple[int, int]] = []
    run = Run(checkpoint=tmp_path / "c", on_step=lambda step, steps: seen.append((step, steps)))
    train_classifier(_network(), _photos(), VIEWS, _config(steps=3), run)
    assert seen == [(0, 3), (1, 3), (2, 3)]


def test_biases_decay_where_asked(tmp_path: Path) -> None:
    """With no gradient of its own a bias only shrinks."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    nn.init.zeros_(network[1].weight)
    nn.init.ones_(network[1].bias)
    config = _config(
        steps=5, bias_decay=0.5, optimizer="adamw", learning_rate=0.1, loss="cross-entropy"
    )
    free = _config(steps=5, optimizer="adamw", learning_rate=0.1, loss="cross-entropy")
    lengths = []
    for choice in (config, free):
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        model.load_state_dict(network.state_dict())
        run = Run(checkpoint=tmp_path / str(choice.bias_decay))
        train_classifier(model, _photos(), VIEWS, choice, run)
        lengths.append(model[1].bias.detach().norm().item())
    assert lengths[0] < 0.95 * lengths[1]


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    """Each message has what, the value and the rule."""
    run = Run(checkpoint=tmp_path / "c")
    with pytest.raises(InvalidInput, match="no labels"):
        train_classifier(_network(), _photos(labels=False), VIEWS, _config(), run)
    with pytest.raises(InvalidInput, match=r"Labels lie in 0 \.\. 2; the rule is 0 \.\. 1"):
        train_classifier(_network(2), _photos(), VIEWS, _config(), run)
    with pytest.raises(UnknownName, match="loss of labels 'cosine'"):
        train_classifier(_network(), _photos(), VIEWS, _config(loss="cosine"), run)
    with pytest.raises(InvalidInput, match=r"shape \(16, 3\), the teacher's \(16, 5\)"):
        train_student(_network(3), _network(5), _photos(), VIEWS, _config(loss="cosine"), run)
    with pytest.raises(InvalidInput, match="no photo to train on"):
        Photos(images=torch.zeros(0, 3, 4, 4, dtype=torch.uint8), train=np.zeros(0, dtype=int))
    with pytest.raises(UnknownName, match="loss 'hinge'"):
        _config(loss="hinge")
    with pytest.raises(InvalidInput, match="batch_size is 0"):
        _config(batch_size=0)


def test_weights_that_are_not_numbers_end_the_run_at_once(tmp_path: Path) -> None:
    """The step is named, and no checkpoint holds the damage."""
    network = _network()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    run = Run(checkpoint=tmp_path / "c")
    with pytest.raises(InvalidInput, match="step 0: uniform-off-label is nan"):
        train_classifier(network, _photos(), VIEWS, _config(), run)
    assert not run.checkpoint.exists()


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    """Other photos or settings under the same file name."""
    path, photos = tmp_path / "c", _photos()
    train_classifier(_network(), photos, VIEWS, _config(), Run(checkpoint=path, purpose="one"))
    with pytest.raises(ArtifactMismatch, match="other data or with other settings"):
        train_classifier(_network(), photos, VIEWS, _config(), Run(checkpoint=path, purpose="two"))


def test_an_epoch_shows_every_photo_once() -> None:
    """In an order that depends on the epoch, and a last partial batch waits for the next epoch."""
    batches = Batches(_photos(40), _config(batch_size=10), ALONE)
    epochs = [np.concatenate([batches.share(3 * e + i).all for i in range(3)]) for e in range(2)]
    for rows in epochs:
        assert len(set(rows.tolist())) == 30
    assert epochs[0].tolist() != epochs[1].tolist()
