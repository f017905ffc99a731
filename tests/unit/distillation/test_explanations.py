"""e2KD's explanations: where, of what, and whom a loss on them trains."""

import pytest
import torch

from dncbm.attribution import methods
from dncbm.bcos.explain import explain
from dncbm.distillation import loss as losses
from dncbm.distillation.explanations import (
    KINDS,
    Explainer,
    last_block,
    require_comparable,
    resized,
)
from dncbm.distillation.viewed import Viewed
from dncbm.errors import InvalidInput, UnknownName
from tests.unit.distillation.parts import bcos, cnn, vit

PIXELS = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def _side(kind: str, seed: int) -> Viewed:
    return bcos(seed=seed) if kind == "bcos" else cnn(seed=seed)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_reaches_the_students_first_and_last_layer_and_not_the_teacher(
    kind: str,
) -> None:
    """The guard: `requires_grad` of a loss proves nothing (captum's truncated Grad-CAM has it)."""
    student, teacher = _side(kind, 0).train(), _side(kind, 1).eval()
    of_student, of_teacher = (Explainer.of(kind, s.network, PIXELS) for s in (student, teacher))
    wanted = of_teacher(teacher.network, PIXELS)
    best = wanted.logits.argmax(dim=1)
    found = of_student(student.network, PIXELS, best, create_graph=True)
    distance = losses.explanation_loss(resized(found.maps, 16), resized(wanted.maps, 16))
    distance.backward()
    assert not wanted.maps.requires_grad
    assert all(p.grad is None for p in teacher.parameters())
    named = {n: p.grad for n, p in student.network.named_parameters() if p.dim() > 1}
    for name in (next(iter(named)), next(n for n in reversed(named) if "fc" in n)):
        grad = named[name]
        assert grad is not None, name
        assert float(grad.abs().sum()) > 0, name


def test_maps_and_logits_are_those_of_the_methods() -> None:
    side = cnn().eval()
    network, classes = side.network, torch.tensor([0, 1, 2])
    with torch.no_grad():
        wanted = network(PIXELS)
    maps = {
        "gradcam": methods.grad_cam(network, PIXELS, classes, layer="layer3"),
        "ixg": methods.input_x_gradient(network, PIXELS, classes),
        "intgrad": methods.integrated_gradients(network, PIXELS, classes, steps=8),
    }
    for kind, expected in maps.items():
        layer = "layer3" if kind == "gradcam" else None
        found = Explainer.of(kind, network, PIXELS, layer=layer)(network, PIXELS, classes)
        assert torch.equal(found.maps, expected)
        assert torch.allclose(found.logits, wanted)
        best = Explainer.of(kind, network, PIXELS, layer=layer)(network, PIXELS)
        again = Explainer.of(kind, network, PIXELS, layer=layer)
        assert torch.equal(best.maps, again(network, PIXELS, wanted.argmax(1)).maps)


def test_b_cos_is_compared_by_its_weights_and_judged_by_its_contributions() -> None:
    side = bcos().eval()
    classes = torch.tensor([2, 0, 1])
    of = Explainer.of("bcos", side.network, PIXELS)
    wanted = explain(side.network, PIXELS, classes)
    found = of(side.network, PIXELS, classes)
    assert found.maps.shape == (3, 6, 16, 16)
    assert torch.equal(found.maps, wanted.weights[:, 0])
    assert torch.equal(of.contributions(side.network, PIXELS, classes), wanted.maps[:, 0])
    plain = cnn().eval()
    cam = Explainer.of("gradcam", plain.network, PIXELS)
    assert cam.contributions(plain.network, PIXELS, classes).shape == (3, 16, 16)


def test_the_last_block_is_found() -> None:
    """A stage of a ResNet; before the last attention of a network that reads a class token."""
    network = cnn().network.train()
    network.layer1.eval()
    assert last_block(network, PIXELS) == "layer4"
    assert network.training
    assert not network.layer1.training
    assert last_block(bcos().network, PIXELS) == "network.layer4"  # not the head's class maps
    name = last_block(vit().network, PIXELS)
    assert name == "blocks.1.norm1"
    with pytest.raises(InvalidInput, match="No layer of Linear"):
        last_block(torch.nn.Linear(16, 2).requires_grad_(False), PIXELS)


def test_sizes() -> None:
    maps = torch.rand(2, 1, 4, 4)
    assert resized(maps, 8).shape == (2, 1, 8, 8)
    assert torch.allclose(resized(maps, 2), maps.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)), 0.3)


def test_refused() -> None:
    with pytest.raises(UnknownName, match="saliency"):
        Explainer(kind="saliency")
    with pytest.raises(InvalidInput, match="needs a layer"):
        Explainer(kind="gradcam")
    with pytest.raises(InvalidInput, match="no B-cos network"):
        Explainer.of("bcos", cnn().network, PIXELS)
    other = bcos().network
    other.encoding = "negated"
    with pytest.raises(InvalidInput, match="'inverse'.*'negated'"):
        require_comparable(bcos().network, other, "bcos")
