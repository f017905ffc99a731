"""Decisions by concept and by name, on tiny artifacts and codes made by hand."""

from dataclasses import replace

import pytest
import torch

from dncbm.errors import UnknownName
from dncbm.predictor import Predictor
from dncbm.probe.model import Probe
from tests.api.fakes import CLASSES, NUM_CONCEPTS
from tests.api.test_real_model import write_model

NAMES = {
    0: "dress (velvet dress)",
    1: "dress",
    2: "gown (ball gown)",
    3: "dress (velvet dress)",
    4: "gown",
    5: "crane (bird)",
}
WEIGHTS = [1.0, 2.0, -3.0, 4.0, 5.0, 6.0, 7.0]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Concepts 0 to 4 are one group of two synonyms; 5 and 6 stand alone."""
    made = Predictor.load(write_model(tmp_path_factory.mktemp("model")), device="cpu")
    names = [
        replace(one, name=NAMES.get(one.concept, one.name), group=0 if c < 5 else c)
        for c, one in enumerate(made.dictionary.names)
    ]
    weights = torch.zeros(len(CLASSES), NUM_CONCEPTS)
    weights[0, : len(WEIGHTS)] = torch.tensor(WEIGHTS)
    probe = Probe(weights, torch.tensor([100.0, 0.0, 0.0]), CLASSES)
    return Predictor(
        encoder=made.encoder,
        sae=made.sae,
        dictionary=replace(made.dictionary, names=names),
        cbm=replace(made.cbm, probe=probe),
    )


def parts(predictor: Predictor, by: str, **codes: float) -> list[tuple]:
    row = torch.zeros(1, NUM_CONCEPTS)
    for concept, code in codes.items():
        row[0, int(concept[1:])] = code
    ((best,),) = predictor.predict_codes(row, by=by)
    total = best.bias + sum(part.contribution for part in best.contributions) + best.remainder
    assert total == best.logit
    return [(part.name, part.contribution, part.concepts) for part in best.contributions]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        # the strongest member names synonyms, without its detail
        ({"c0": 1, "c1": 2, "c2": 0.5, "c3": 0.25}, ("dress", 4.5, (1, 2, 0, 3))),
        ({"c2": 3, "c4": 1}, ("gown", -4.0, (2, 4))),
        ({"c1": 1, "c0": 1}, ("dress", 3.0, (1, 0))),
        # the same name in full, and one that contributes alone, keep the detail
        ({"c0": 1, "c3": 1}, ("dress (velvet dress)", 5.0, (3, 0))),
        ({"c0": 1, "c9": 4}, ("dress (velvet dress)", 1.0, ())),
        ({"c5": 1}, ("crane (bird)", 6.0, ())),
    ],
)
def test_concepts_of_one_name_are_one_part(predictor: Predictor, codes, expected) -> None:
    assert parts(predictor, "name", **codes) == [expected]


def test_concepts_of_other_names_stay_apart(predictor: Predictor) -> None:
    codes = {"c0": 1.0, "c1": 1.0, "c5": 2.0, "c6": 1.0}
    assert parts(predictor, "name", **codes) == [
        ("crane (bird)", 12.0, ()), ("red", 7.0, ()), ("dress", 3.0, (1, 0)),
    ]  # fmt: skip
    assert parts(predictor, "concept", **codes) == [
        ("crane (bird)", 12.0, ()), ("red", 7.0, ()), ("dress", 2.0, ()),
        ("dress (velvet dress)", 1.0, ()),
    ]  # fmt: skip


def test_names_that_cancel_are_not_listed(predictor: Predictor) -> None:
    assert parts(predictor, "name", c0=1.0, c1=1.0, c2=1.0) == []


def test_another_listing_is_refused(predictor: Predictor) -> None:
    with pytest.raises(UnknownName, match="Unknown value of `by` 'names'.*: name"):
        predictor.predict_codes(torch.zeros(1, NUM_CONCEPTS), by="names")
