"""Guided training: reasons move into the masks, runs resume exactly, and nothing useless begins."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dncbm.errors import InvalidInput, UnknownName
from dncbm.guidance.candidates import Candidates
from dncbm.guidance.masks import Masks
from dncbm.guidance.measure import Measure
from dncbm.guidance.photos import GuidedPhotos
from dncbm.guidance.task import Attributor, Classes, guiding_method
from dncbm.guidance.train import GuidedTraining, train_guided
from dncbm.training.photos import Run
from tests.unit.guidance.scene import VIEWS, WHOLE, network, scene


class _Stop(Exception):
    """Stands for a kill."""


def _config(**changes: Any) -> GuidedTraining:
    settings: dict[str, Any] = {
        "steps": 60, "batch_size": 16, "learning_rate": 0.01, "evaluate_every": 30,
        "label_loss": "cross-entropy",
    }  # fmt: skip
    return GuidedTraining(**settings | changes)


def _epg(found: Candidates, step: int = 60) -> float:
    return float(found.figures[step]["epg"])


@pytest.mark.parametrize(
    ("is_bcos", "changes"),
    [
        (False, {"loss": "energy"}),
        (False, {"loss": "energy", "layer": "3", "attribution": "grad_cam"}),
        (False, {"loss": "energy", "targets": "all", "reduction": "sum", "weight": 0.1}),
        (True, {"loss": "energy", "label_loss": "uniform-off-label", "learning_rate": 0.03}),
    ],
)
def test_guidance_moves_attribution_into_the_masks(
    tmp_path: Path, is_bcos: bool, changes: dict[str, Any]
) -> None:
    """Against the same training without; the classes are still told apart."""
    shares = {}
    for weight in (0.0, changes.get("weight", 2.0)):
        config = _config(**changes | {"weight": weight})
        model = network(is_bcos=is_bcos)
        run = Run(checkpoint=tmp_path / f"weight {weight:g}" / "c")
        history, found = train_guided(model, scene(), WHOLE, config, run)
        last = found.figures[60]
        shares[weight] = _epg(found)
        assert last["accuracy"] > 0.9
        assert last["worst_group"] <= last["accuracy"]
        assert last["epg_gain"] == pytest.approx(last["epg"] - last["epg_chance"])
        assert history[-1]["held_out_epg"] == last["epg"]
        assert not model.training
    guided = shares[changes.get("weight", 2.0)]
    assert guided > shares[0.0] + 0.15, shares


def test_a_tenth_of_the_annotations_and_every_other_step_still_help(tmp_path: Path) -> None:
    """Photos without annotation only classify; with crops, as masks follow them."""
    found = {}
    for weight in (0.0, 3.0):
        config = _config(weight=weight, every=2, steps=90)
        run = Run(checkpoint=tmp_path / f"weight {weight:g}" / "c")
        _, found[weight] = train_guided(network(), scene(annotated=0.1), VIEWS, config, run)
    assert _epg(found[3.0], 90) > _epg(found[0.0], 90) + 0.1


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Weights, history, and the candidates that were kept."""

    def stop(step: int, steps: int) -> None:
        if step == 17:
            raise _Stop

    config = _config(steps=24, evaluate_every=8)
    whole, again = network(), network()
    run = Run(checkpoint=tmp_path / "a.safetensors")
    rows, kept = train_guided(whole, scene(), VIEWS, config, run)
    with pytest.raises(_Stop):
        killed = Run(checkpoint=tmp_path / "b", on_step=stop)
        train_guided(network(), scene(), VIEWS, config, killed)
    found, others = train_guided(again, scene(), VIEWS, config, Run(checkpoint=tmp_path / "b"))
    assert found == rows
    assert others.figures == kept.figures
    assert sorted(p.name for p in others.folder.iterdir()) == sorted(
        p.name for p in kept.folder.iterdir()
    )
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
        assert torch.equal(tensor, kept.weights(24)[name])


def test_a_step_without_any_annotation_trains_the_classification(tmp_path: Path) -> None:
    """One annotated photo of 64: most batches of 4 have none."""
    config = _config(steps=8, batch_size=4, evaluate_every=4)
    few = scene(annotated=1 / 64)
    history, _ = train_guided(network(), few, VIEWS, config, Run(checkpoint=tmp_path / "c"))
    assert all(np.isfinite(row["energy"]) for row in history if "energy" in row)


def test_several_classes_per_photo(tmp_path: Path) -> None:
    """BCE, F1 and mAP; all annotated classes are targets."""
    data = scene()
    truth = data.truth.copy()
    truth[:, 0] = True
    both = np.zeros((2 * len(truth), 12, 12), bool)
    both[::2], both[1::2] = True, True
    both[1::2, :6] = False
    rows = np.repeat(np.arange(len(truth)), 2)
    targets = np.tile([0, 1], len(truth))
    many = replace(data, truth=truth, masks=Masks(rows, targets, both))
    config = _config(label_loss="bce", targets="all", steps=30)
    _, found = train_guided(network(), many, VIEWS, config, Run(checkpoint=tmp_path / "c"))
    assert found.figures[30]["f1"] > 0.8
    assert "accuracy" not in found.figures[30]


def test_reversed_guidance_looks_at_the_background(tmp_path: Path) -> None:
    """The coloured rows at the bottom are outside of the patches."""
    _, found = train_guided(
        network(), scene(), WHOLE, _config(side="outside"), Run(checkpoint=tmp_path / "c")
    )
    assert _epg(found) > found.figures[0]["epg"]
    assert found.figures[0]["epg_chance"] > 0.85


def test_measures_equal_a_loop(tmp_path: Path) -> None:
    """EPG, chance and IoU of single maps, whatever the batches; some rows, some annotated."""
    data, model = scene(20), network().eval()
    attributor = Attributor(model, Classes(), guiding_method("input_x_gradient"), None)
    found = Measure(attributor=attributor, data=data, views=WHOLE, threshold=0.3)()
    shares, areas, overlaps = [], [], []
    for row in data.photos.held_out:
        pixels = WHOLE.whole(data.photos.read(np.array([row])))
        label = int(data.truth[row].argmax())
        one = attributor.maps(pixels, torch.tensor([[label]]))[0, 0].double().numpy()
        mask = data.masks.pixels[list(data.masks.rows).index(row)]
        positive = np.maximum(one, 0)
        shares.append(positive[mask].sum() / positive.sum())
        areas.append(mask.mean())
        high = positive / positive.max() >= 0.3
        overlaps.append((high & mask).sum() / (high | mask).sum())
    assert found["epg"] == pytest.approx(np.mean(shares), rel=1e-5)
    assert found["epg_chance"] == pytest.approx(np.mean(areas))
    assert found["iou"] == pytest.approx(np.mean(overlaps), rel=1e-5)
    few = Measure(attributor=attributor, data=data, views=WHOLE, most=1)()
    assert few["epg"] == pytest.approx(shares[0], rel=1e-5)
    assert few["accuracy"] == found["accuracy"]


def _without_masks(data: GuidedPhotos) -> GuidedPhotos:
    held = np.isin(data.masks.rows, data.photos.held_out)
    masks = Masks(data.masks.rows[held], data.masks.targets[held], data.masks.pixels[held])
    return replace(data, masks=masks)


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    """Before anything is trained, with the next step."""
    run = Run(checkpoint=tmp_path / "c")
    with pytest.raises(InvalidInput, match="No training photo has a box"):
        train_guided(network(), _without_masks(scene()), VIEWS, _config(), run)
    with pytest.raises(UnknownName, match="Unknown layer 'layer9'"):
        train_guided(network(), scene(), VIEWS, _config(layer="layer9"), run)
    with pytest.raises(InvalidInput, match="that of B-cos networks"):
        train_guided(network(), scene(), VIEWS, _config(attribution="bcos"), run)
    assert not run.checkpoint.exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loss": "enrgy"}, UnknownName, "guidance loss 'enrgy'"),
        ({"label_loss": "mse"}, UnknownName, "loss of labels 'mse'"),
        ({"attribution": "gradcam"}, UnknownName, "grad_cam"),
        ({"side": "left"}, UnknownName, "side 'left'"),
        ({"reduction": "none"}, UnknownName, "reduction 'none'"),
        ({"every": 0}, InvalidInput, "every is 0"),
        ({"weight": -1.0}, InvalidInput, r"weight is -1\.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _config(**changes)
