from dataclasses import replace

from dncbm.types import ConceptName
from pipelines.report_parts import guessed, naming_rows, short_note

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
