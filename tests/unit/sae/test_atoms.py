import numpy as np
import torch
from torch.nn import functional

from dncbm.sae.activations import ReLU
from dncbm.sae.atoms import ArchetypalAtoms, FreeAtoms, archetypes
from dncbm.sae.model import SaeModel
from dncbm.sae.rows import as_rows


def _model(concepts: int = 10) -> SaeModel:
    return SaeModel(6, concepts, activation=ReLU()).double()


def test_free_rows_keep_unit_length_and_gradients_stay_on_the_sphere() -> None:
    model = _model()
    atoms = FreeAtoms(model)
    atoms.after_step()
    model(torch.randn(4, 6, dtype=torch.float64)).reconstruction.square().sum().backward()
    atoms.after_backward()
    assert model.dictionary.grad is not None
    along = (model.dictionary.grad * model.dictionary).sum(dim=-1)
    np.testing.assert_allclose(along.detach().numpy(), 0, atol=1e-10)
    with torch.no_grad():
        model.dictionary.mul_(3)
    atoms.after_step()
    np.testing.assert_allclose(model.dictionary.detach().norm(dim=-1).numpy(), 1)


def test_archetypal_rows_are_mixtures_of_points_within_the_relaxation() -> None:
    model = _model()
    points = torch.randn(12, 6, dtype=torch.float64)
    atoms = ArchetypalAtoms(model, points, relaxation=0.5)
    torch.testing.assert_close(model.dictionary, functional.normalize(points[:10], dim=1))
    assert not model.dictionary.requires_grad
    mixture, relaxed = atoms.parameters()
    with torch.no_grad():
        mixture += torch.randn_like(mixture)
        relaxed += 9.0
    atoms.after_step()
    assert float(mixture.detach().min()) >= 0
    np.testing.assert_allclose(mixture.detach().sum(dim=1).numpy(), 1)
    limit = 0.5 * float(points.norm(dim=1).mean())
    np.testing.assert_allclose(relaxed.detach().norm(dim=1).numpy(), limit)
    for row in range(10):  # the composition, by hand
        mixed = sum(
            float(w) * point for w, point in zip(mixture.detach()[row], points, strict=True)
        )
        whole = mixed + relaxed[row].detach()
        torch.testing.assert_close(model.dictionary[row], whole / whole.norm())


def test_archetypal_rows_pass_their_gradients_on() -> None:
    atoms = ArchetypalAtoms(_model(), torch.randn(12, 6, dtype=torch.float64), relaxation=0.5)
    target = torch.randn(10, 6, dtype=torch.float64)
    (atoms.rows() * target).sum().backward()
    assert all(float(part.grad.abs().sum()) > 0 for part in atoms.parameters())


def test_points_are_centres_of_the_standardised_rows() -> None:
    centres = torch.tensor([[5.0, 0, 0, 0, 0, 0], [0, 5.0, 0, 0, 0, 0]])
    rows = as_rows(centres.repeat(20, 1) + 0.01 * torch.randn(40, 6))
    model = SaeModel(6, 4, activation=ReLU())
    with torch.no_grad():
        model.input_scale.fill_(5.0)
    found = archetypes(model, rows, 2, torch.Generator().manual_seed(0))
    order = found[:, 0].argsort(descending=True)
    torch.testing.assert_close(found[order], centres / 5, atol=0.01, rtol=0)
    assert len(archetypes(model, rows, 99, torch.Generator().manual_seed(0))) == 40


def test_a_tied_encoder_starts_as_the_mixtures_and_another_one_stays() -> None:
    points = torch.randn(12, 6, dtype=torch.float64)
    tied, other = _model(), _model()
    with torch.no_grad():
        tied.encoder_weight.copy_(tied.dictionary)
        other.encoder_weight.fill_(0.5)
    for model in (tied, other):
        ArchetypalAtoms(model, points, relaxation=0.5)
    torch.testing.assert_close(tied.encoder_weight, tied.dictionary)
    assert bool((other.encoder_weight == 0.5).all())


def test_rows_start_apart_even_where_points_are_few() -> None:
    model = _model(16)
    ArchetypalAtoms(model, torch.randn(4, 6, dtype=torch.float64), relaxation=0.5)
    cosines = model.dictionary @ model.dictionary.T - torch.eye(16, dtype=torch.float64)
    assert float(cosines.max()) < 0.9999
