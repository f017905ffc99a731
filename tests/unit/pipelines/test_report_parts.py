from dataclasses import replace

from dncbm.types import ConceptName
from pipelines.report_parts import guessed

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
