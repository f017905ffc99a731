"""Interventions over HTTP: decisions with other codes."""

import base64
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.curation.served import MODEL, intervened, predicted
from tests.api.fakes import photo
from tests.api.test_predictions import account, post, problem
from tests.unit.curation.conftest import C


@pytest.mark.parametrize("query", ["", "?by=name&top_classes=3"])
def test_a_removed_concept_is_gone_from_an_exact_account(client: TestClient, query: str) -> None:
    url = f"{MODEL}/predict{query}{'&' if query else '?'}top_contributions=1"
    first = post(client, photo(1), url=url).json()["predictions"][0]
    concept = first["contributions"][0]["concept"]
    response = intervened(client, [{"concept": concept, "remove": True}], query)
    assert response.status_code == 200, response.text
    (found,) = response.json()["interventions"]
    assert found["image"] == "a.png"
    assert found["before"]["logit"] == first["logit"]
    for scored in (found["before"], found["after"], *found["after"]["alternatives"]):
        assert account(scored) == scored["logit"]
    (changed,) = found["changed"]
    assert changed["concept"] == concept
    assert changed["code_before"] > 0 == changed["code_after"]
    assert concept not in [part["concept"] for part in found["after"]["contributions"]]


def test_sparse_heads_are_asked_alike(client: TestClient) -> None:
    changes = [{"concept": c, "set": 1.0} for c in range(C)]
    (found,) = intervened(client, changes, "?nec=3&top_classes=3").json()["interventions"]
    for scored in (found["after"], *found["after"]["alternatives"]):
        assert account(scored) == scored["logit"]
        assert 1 <= len(scored["contributions"]) <= 3
        assert all(part["code"] == 1.0 for part in scored["contributions"])


def test_names_stand_for_all_their_concepts_and_json_does_the_same(client: TestClient) -> None:
    changes = [{"concept": "wing", "set": 2.5}, {"concept": 0, "scale": 3}]
    (form,) = intervened(client, changes).json()["interventions"]
    assert [one["concept"] for one in form["changed"]] == [1, 3, 0]
    assert [one["code_after"] for one in form["changed"][:2]] == [2.5, 2.5]
    leg = form["changed"][2]
    assert leg["code_after"] == pytest.approx(3 * leg["code_before"])
    body = {"images": [base64.b64encode(photo(1)).decode()], "changes": changes}
    (plain,) = client.post(f"{MODEL}/intervene", json=body).json()["interventions"]
    assert plain["after"] | {"image": "a.png"} == form["after"]


def test_the_model_stays_as_it_is_after_an_intervention(client: TestClient) -> None:
    before = predicted(client)
    intervened(client, [{"concept": c, "set": 9} for c in range(C)])
    assert predicted(client) == before


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ("nonsense", 422, "must hold JSON text"),
        ("[" * 5000, 422, "must hold JSON text"),
        ([], 422, "list of 1 to 1000"),
        ([{"concept": 1}], 422, "not of the form"),
        ([{"concept": 1, "set": 0, "scale": 1}], 422, "not of the form"),
        ([{"concept": 1, "set": -1}], 422, "finite number from 0"),
        ('[{"concept": 1, "scale": NaN}]', 422, "finite number from 0"),
        ('[{"concept": 1, "scale": Infinity}]', 422, "finite number from 0"),
        ([{"concept": 1, "set": 10**400}], 422, "finite number from 0"),
        ([{"concept": 1, "set": "0"}], 422, "must be a number"),
        ([{"concept": 1, "remove": False}], 422, "must be true"),
        ([{"concept": True, "set": 0}], 422, "index or a name"),
        ([{"concept": C, "set": 0}], 422, f"0 to {C - 1}"),
        ([{"concept": "wink", "set": 0}], 404, "Nearest known names: wing"),
        ([{"concept": 1, "set": 0}, {"concept": "wing", "scale": 2}], 422, "is changed twice"),
    ],
)
def test_changes_that_cannot_be(
    client: TestClient, changes: Any, status: int, message: str
) -> None:
    assert message in problem(intervened(client, changes), status)


def test_an_intervention_needs_changes(client: TestClient) -> None:
    files = {"image": ("a.png", photo(1), "image/png")}
    assert "got nothing" in problem(client.post(f"{MODEL}/intervene", files=files), 422)
    body = {"images": [base64.b64encode(photo(1)).decode()]}
    assert "changes" in problem(client.post(f"{MODEL}/intervene", json=body), 422)
