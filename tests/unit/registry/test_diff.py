import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from dncbm.artifacts import Manifest
from dncbm.errors import ArtifactMismatch, InvalidInput, UnknownName
from dncbm.naming.dictionary import EXAMPLE_SCHEMA, Dictionary
from dncbm.naming.space import NamingSpace
from dncbm.probe.model import Probe
from dncbm.probe.store import Cbm
from dncbm.registry.diff import ModelParts, diff_dictionaries, diff_models
from dncbm.registry.matching import match_directions
from dncbm.sae.activations import ReLU
from dncbm.sae.model import SaeModel
from dncbm.types import ConceptName


def manifest(kind: str, encoder: str = "e" * 64) -> Manifest:
    return Manifest(kind=kind, format_version=2, dncbm_version="0", config={}, files={},
                    inputs={"encoder": encoder})  # fmt: skip


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def dictionary(directions: Tensor, names: list[str | None], encoder: str = "e" * 64) -> Dictionary:
    listed = [
        ConceptName(concept=i, name=name or f"concept {i}", score=0.5, margin=0.1, alternatives=(),
                    status="named" if name else "unnamed", group=i)
        for i, name in enumerate(names)
    ]  # fmt: skip
    return Dictionary(
        path=Path("d"), directions=directions, names=listed,
        space=NamingSpace(directions, torch.zeros(directions.shape[1])),
        statistics=pa.table({}), examples=EXAMPLE_SCHEMA.empty_table(),
        manifest=manifest("dictionary", encoder),
    )  # fmt: skip


def bottleneck(weights: Tensor, classes: tuple[str, ...], accuracy: float) -> Cbm:
    probe = Probe(weights, torch.zeros(len(classes)), classes)
    sparse = Probe(weights * (weights > 0), torch.zeros(len(classes)), classes)
    metrics = {"accuracy": {"test": {"dense": accuracy, "nec5": accuracy - 0.125}}}
    return Cbm(path=Path("c"), probe=probe, nec_probes={5: sparse}, temperatures={"dense": 1.0},
               metrics=metrics, manifest=manifest("cbm"))  # fmt: skip


def best_by_trying(cosines: np.ndarray, least: float) -> float:
    """The largest sum of what pairs have above `least`, over every one-to-one matching."""
    few, many = sorted(cosines.shape)
    table = cosines if cosines.shape[0] == few else cosines.T
    return max(
        sum(max(table[i, j] - least, 0) for i, j in enumerate(chosen))
        for chosen in itertools.permutations(range(many), few)
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sizes", [(4, 6), (6, 5), (5, 5)])
def test_the_optimal_matching_is_the_best_of_all(seed: int, sizes: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(seed)
    a, b = (unit(torch.randn(size, 3, generator=draw)) for size in sizes)
    found = match_directions(a, b, min_cosine=0.4)
    cosines = (a @ b.T).numpy()
    assert found.method == "optimal"
    gained = sum(value - 0.4 for value in found.cosines)
    assert gained == pytest.approx(best_by_trying(cosines, 0.4), abs=1e-5)
    assert len({i for i, _ in found.pairs}) == len({j for _, j in found.pairs}) == len(found.pairs)
    assert min(found.cosines, default=1) >= 0.4
    np.testing.assert_allclose(found.nearest_a, cosines.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.nearest_b, cosines.max(axis=0), atol=1e-6)


@pytest.mark.parametrize("block", [1, 3, 100])
@pytest.mark.parametrize("seed", range(4))
def test_mutual_pairs_are_each_others_nearest(
    seed: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dncbm.registry.matching._BLOCK", block)
    draw = torch.Generator().manual_seed(seed)
    a, b = (unit(torch.randn(size, 3, generator=draw)) for size in (9, 7))
    found = match_directions(a, b, min_cosine=0.2, method="mutual")
    cosines = (a @ b.T).numpy()
    expected = [
        (i, j)
        for i, j in itertools.product(range(9), range(7))
        if cosines[i].argmax() == j and cosines[:, j].argmax() == i and cosines[i, j] >= 0.2
    ]
    assert list(found.pairs) == expected
    np.testing.assert_allclose(found.nearest_a, cosines.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.nearest_b, cosines.max(axis=0), atol=1e-6)


def test_many_concepts_are_matched_without_the_cube_of_their_number() -> None:
    a = unit(torch.randn(4097, 8, generator=torch.Generator().manual_seed(0)))
    found = match_directions(a, a.flip(0))
    assert found.method == "mutual"
    assert found.pairs == tuple((i, 4096 - i) for i in range(4097))


def test_what_cannot_be_matched() -> None:
    a = torch.eye(3)
    for wrong in (0.0, 1.1, float("nan")):
        with pytest.raises(InvalidInput, match="min_cosine"):
            match_directions(a, a, min_cosine=wrong)
    with pytest.raises(ArtifactMismatch, match="width 3 and 4"):
        match_directions(a, torch.eye(4))
    with pytest.raises(UnknownName, match="optimal"):
        match_directions(a, a, method="greedy")
    with pytest.raises(ArtifactMismatch, match="different encoders"):
        diff_dictionaries(dictionary(a, ["x"] * 3), dictionary(a, ["x"] * 3, "f" * 64))


AXES = torch.eye(6)
BEFORE = dictionary(AXES[:5], ["red", "dot", None, None, "old"])
AFTER = dictionary(AXES[[1, 0, 3, 2, 5]], ["spot", "red", "stripe", None, "new"])


def test_kept_renamed_gained_and_lost() -> None:
    found = diff_dictionaries(BEFORE, AFTER)
    assert [(item.name_a, item.name_b) for item in found.kept] == [
        ("red", "red"),
        ("concept 2", "concept 3"),  # neither has a name
    ]
    renamed = [(i.concept_a, i.concept_b, i.name_a, i.name_b) for i in found.renamed]
    assert renamed == [
        (1, 0, "dot", "spot"),
        (3, 2, "concept 3", "stripe"),
    ]  # fmt: skip
    assert [(item.concept, item.name, item.cosine) for item in found.gained] == [(4, "new", 0)]
    assert [(item.concept, item.name, item.cosine) for item in found.lost] == [(4, "old", 0)]
    assert [item.cosine for item in found.matched] == [1, 1, 1, 1]
    same = diff_dictionaries(BEFORE, BEFORE)
    assert len(same.kept) == 5
    assert same.renamed == same.gained == same.lost == ()


def identity_sae(order: list[int]) -> SaeModel:
    """Codes are coordinates of the embedding, in another order."""
    sae = SaeModel(6, len(order), activation=ReLU())
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.zero_()
        sae.encoder_weight.copy_(AXES[order])
    return sae


def parts(names: Dictionary, weights: Tensor, classes: tuple[str, ...], accuracy: float,
          order: list[int]) -> ModelParts:  # fmt: skip
    return ModelParts(names, bottleneck(weights, classes, accuracy), identity_sae(order))


def test_models_by_brute_force() -> None:
    draw = torch.Generator().manual_seed(1)
    w_a, w_b = torch.randn(3, 5, generator=draw), torch.randn(3, 5, generator=draw)
    order_a, order_b = [0, 1, 2, 3, 4], [1, 0, 3, 2, 5]
    a = parts(BEFORE, w_a, ("Shoes", "Dress", "Hat"), 0.5, order_a)
    b = parts(AFTER, w_b, ("Bag", "Shoes", "Dress"), 0.75, order_b)
    embeddings = torch.rand(20, 6, generator=draw)
    found = diff_models(a, b, embeddings=embeddings)

    assert [(item.split, item.head, item.difference) for item in found.accuracy] == [
        ("test", "dense", 0.25), ("test", "nec5", 0.25),
    ]  # fmt: skip
    assert found.classes_gained == ("Bag",)
    assert found.classes_lost == ("Hat",)
    partner = {0: 1, 1: 0, 2: 3, 3: 2}
    for change, k_a, k_b in zip(found.classes, (0, 1), (1, 2), strict=True):
        moved = sum(abs(float(w_b[k_b, j] - w_a[k_a, i])) for i, j in partner.items())
        assert change.weight_change == pytest.approx(moved, rel=1e-6)
        assert change.weight_lost == pytest.approx(abs(float(w_a[k_a, 4])), rel=1e-6)
        assert change.weight_gained == pytest.approx(abs(float(w_b[k_b, 4])), rel=1e-6)
        total = 0.0
        for row in embeddings:
            for i, j in partner.items():
                total += abs(float(row[order_a[i]] * w_a[k_a, i] - row[order_b[j]] * w_b[k_b, j]))
            total += abs(float(row[4] * w_a[k_a, 4])) + abs(float(row[5] * w_b[k_b, 4]))
        assert change.contribution_change == pytest.approx(total / 20, rel=1e-5)
    assert found.images == 20
    best_a = (embeddings[:, order_a] @ w_a.T).argmax(dim=1)
    best_b = (embeddings[:, order_b] @ w_b.T).argmax(dim=1)
    names_a = [("Shoes", "Dress", "Hat")[k] for k in best_a]
    names_b = [("Bag", "Shoes", "Dress")[k] for k in best_b]
    differing = sum(one != other for one, other in zip(names_a, names_b, strict=True))
    assert found.decisions_changed == differing
    assert differing > 0

    sizes = [abs(item.difference) for item in found.weights]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 8
    first = found.weights[0]
    k_a, k_b = {"Shoes": (0, 1), "Dress": (1, 2)}[first.class_name]
    assert first.before == float(w_a[k_a, first.concept.concept_a])
    assert first.after == float(w_b[k_b, first.concept.concept_b])


def test_blocks_of_images_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(2)
    a, b = (
        parts(BEFORE, torch.randn(2, 5, generator=draw), ("x", "y"), 0.5, [0, 1, 2, 3, 4])
        for _ in range(2)
    )
    embeddings = torch.rand(10, 6, generator=draw)
    whole = diff_models(a, b, embeddings=embeddings)
    monkeypatch.setattr("dncbm.registry.diff._BLOCK", 3)
    split = diff_models(a, b, embeddings=embeddings)
    assert split.decisions_changed == whole.decisions_changed
    for one, other in zip(split.classes, whole.classes, strict=True):
        assert one.contribution_change == pytest.approx(other.contribution_change, rel=1e-9)


def test_a_model_does_not_differ_from_itself() -> None:
    a = parts(BEFORE, torch.randn(2, 5), ("x", "y"), 0.5, [0, 1, 2, 3, 4])
    found = diff_models(a, a, embeddings=torch.rand(7, 6))
    assert found.weights == ()
    assert found.decisions_changed == 0
    assert {change.contribution_change for change in found.classes} == {0.0}
    without = diff_models(a, a)
    assert (without.images, without.decisions_changed) == (0, None)
    assert {change.contribution_change for change in without.classes} == {None}


def test_heads_of_few_concepts_and_what_is_missing() -> None:
    a = parts(BEFORE, torch.tensor([[1.0, -1, 0, 0, 0], [0, 0, 0, 0, 1]]), ("x", "y"), 0.5, [0] * 5)
    b = parts(BEFORE, torch.tensor([[2.0, -9, 0, 0, 0], [0, 0, 0, 0, 1]]), ("x", "y"), 0.5, [0] * 5)
    assert [item.difference for item in diff_models(a, b).weights] == [-8, 1]
    assert [item.difference for item in diff_models(a, b, nec=5).weights] == [1]
    with pytest.raises(InvalidInput, match="nec=9"):
        diff_models(a, b, nec=9)
    with pytest.raises(InvalidInput, match="need the autoencoder"):
        diff_models(a, dataclasses.replace(b, sae=None), embeddings=torch.rand(2, 6))
    unmeasured = dataclasses.replace(b.cbm, metrics={"accuracy": "none"})
    assert diff_models(a, dataclasses.replace(b, cbm=unmeasured)).accuracy == ()
