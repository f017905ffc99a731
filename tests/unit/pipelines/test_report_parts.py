from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from dncbm.predictor import Predictor
from dncbm.types import ConceptName, Contribution, Prediction
from pipelines.quickstart import explain_samples
from pipelines.report_parts import (
    _sample_explanations,
    _with_guesses,
    guessed,
    naming_rows,
    short_note,
)
from tests.api.test_real_model import write_model

NAMED = ConceptName(
    concept=7, name="cap", score=0.4, margin=0.1, alternatives=(("hat", 0.3),), status="named",
    group=7,
)  # fmt: skip


def test_an_unnamed_concept_is_shown_with_its_best_word_as_a_question() -> None:
    assert guessed(NAMED) == "cap"
    assert guessed(replace(NAMED, name="concept 7", status="unnamed")) == "concept 7 (hat?)"
    assert guessed(replace(NAMED, name="concept 7", status="blocked")) == "concept 7"
    assert (
        guessed(replace(NAMED, name="concept 7", status="unnamed", alternatives=())) == "concept 7"
    )


def test_only_concepts_that_stand_alone_are_guessed() -> None:
    unnamed = replace(NAMED, concept=1, name="concept 1", status="unnamed")
    names = [replace(NAMED, concept=0, name="cap (red cap)"), unnamed, NAMED]
    parts = [
        Contribution(concept=c, name=n, code=1.0, weight=1.0, contribution=1.0, concepts=some)
        for c, n, some in [(0, "cap", (0, 2)), (1, "concept 1", ()), (0, "cap (red cap)", ())]
    ]
    predictor = SimpleNamespace(dictionary=SimpleNamespace(names=names))
    prediction = Prediction(
        class_name="Hat", class_index=0, probability=0.9, logit=3.5, bias=0.25, remainder=0.25,
        contributions=tuple(parts),
    )  # fmt: skip
    shown = _with_guesses(predictor, prediction).contributions
    assert [part.name for part in shown] == ["cap", "concept 1 (hat?)", "cap (red cap)"]
    assert [part.concepts for part in shown] == [(0, 2), (), ()]


def test_sample_photos_are_explained_by_name(tmp_path: Path) -> None:
    made = Predictor.load(write_model(tmp_path), device="cpu")
    names = [replace(name, group=0) for name in made.dictionary.names]
    dictionary = replace(made.dictionary, names=names)
    predictor = Predictor(encoder=made.encoder, sae=made.sae, dictionary=dictionary, cbm=made.cbm)
    for shown in _sample_explanations(predictor):
        (part,) = shown.prediction.contributions
        assert len(part.concepts) > 1
        parts = shown.prediction.bias + part.contribution + shown.prediction.remainder
        assert parts == shown.prediction.logit
    for sample in explain_samples(predictor):
        assert len(sample["contributions"]) == 1


def test_naming_rows_tell_precision_and_hubs_where_they_are_known() -> None:
    metrics = {
        "named_fraction": 0.75, "unique_names": 12, "shared_fraction": 0.2, "mean_score": 0.3,
        "mean_margin": 0.02,
    }  # fmt: skip
    plain = {row.name: row for row in naming_rows(metrics)}
    assert plain["rejected"].value == 0.25
    assert "precision" not in plain
    trust = {"judged": 40, "precision": 0.9, "interval": [0.8, 0.96], "at_coverage": [[0.5, 1.0]]}
    hubs = {"skewness": 4.0, "largest": [["pup", 12]]}
    rows = naming_rows(metrics | {"unique_groups": 7, "trust": trust, "hubness": hubs})
    found = {row.name: row for row in rows}
    assert found["different meanings"].value == 7
    assert "80% to 96%" in found["precision"].meaning
    assert found["precision at coverage"].value == "100% at 50%"
    assert found["hubs"].value == "pup (12)"
    few = {row.name for row in naming_rows(metrics | {"trust": {"judged": 3}})}
    assert "precision" not in few


def test_the_note_of_a_head_tells_how_far_the_listed_contributions_carry() -> None:
    found = {"5": {"accuracy": 0.7, "agreement": 0.873, "remainder": 0.2}}
    note = short_note({"short_decisions": {"nec10": found}}, "nec10")
    assert note == "the 5 largest contributions alone decide the same in 87%"
    assert short_note({"short_decisions": {"nec10": found}}, "dense") == ""
    assert short_note({}, "dense") == ""
