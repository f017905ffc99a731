import json

import pytest

from dncbm.types import Contribution, Prediction
from pipelines.serialise import label, prediction_dict


@pytest.mark.parametrize(
    ("name", "concept", "concepts", "shown"),
    [
        ("dress", 56, [], "dress #56"),
        ("concept 56", 56, [], "concept 56"),
        ("concept 5", 56, [], "concept 5 #56"),
        ("dress", 56, [56, 4], "dress #56 #4"),
        ("dress", 56, [56, 4, 9], "dress #56 #4 #9"),
        ("dress", 56, [56, 4, 9, 1, 2], "dress #56 #4 #9 and 2 more"),
    ],
)
def test_concepts_of_one_name_are_told_by_their_numbers(name, concept, concepts, shown) -> None:
    assert label({"name": name, "concept": concept, "concepts": concepts}) == shown
    if not concepts:
        assert label({"name": name, "concept": concept}) == shown


def test_all_concepts_of_a_name_travel() -> None:
    part = Contribution(
        concept=2, name="dress", code=2.0, weight=0.5, contribution=1.0, concepts=(2, 7)
    )
    prediction = Prediction(
        class_name="Dress", class_index=0, probability=0.9, logit=1.5, bias=0.25, remainder=0.25,
        contributions=(part,),
    )  # fmt: skip
    (found,) = json.loads(json.dumps(prediction_dict(prediction)))["contributions"]
    assert found["concepts"] == [2, 7]
    assert label(found) == "dress #2 #7"
