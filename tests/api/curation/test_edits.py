"""Edits and the audit log over HTTP."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.curation import key_of
from api.main import create_app
from api.registry import Registry, serve_model
from dncbm.database import Database
from dncbm.encoders.clip import Encoder
from dncbm.errors import Unavailable
from dncbm.predictor import Predictor
from tests.api.conftest import OPTIONS, client_for
from tests.api.curation.conftest import Process
from tests.api.curation.served import ADA, EDITS, MODEL, active, predicted, propose, step
from tests.api.test_predictions import account, problem
from tests.unit.curation.conftest import C


def test_an_edit_is_proposed_measured_served_and_reverted(client: TestClient) -> None:
    before = predicted(client)
    concept = before["contributions"][0]["concept"]
    edit = propose(client, {"op": "remove", "concept": concept})
    assert (edit["status"], edit["evaluation"], edit["author"]) == ("draft", None, "ada")
    refused = client.post(f"{EDITS}/{edit['id']}/activate", json=ADA)
    assert "Evaluate it first" in problem(refused, 409)
    found = step(client, edit, "evaluate")["evaluation"]
    assert (found["split"], found["images"]) == ("validation", 90)
    assert {row["class"] for row in found["per_class"]} == {"ant", "bee", "cat"}
    assert [row["concept"] for row in found["removals"]] == [concept]
    assert predicted(client) == before  # not served yet
    assert step(client, edit, "activate")["status"] == "active"
    after = predicted(client)
    assert account(after) == after["logit"]
    assert concept not in [part["concept"] for part in after["contributions"]]
    assert client.get(MODEL).json()["details"]["edit"] == edit["id"]
    assert client.get(f"{EDITS}/{edit['id']}").json()["status"] == "active"
    assert step(client, edit, "revert")["status"] == "reverted"
    assert predicted(client) == before
    actions = [entry["action"] for entry in client.get("/v1/audit").json()["entries"]]
    assert actions == ["edit.revert", "edit.activate", "edit.evaluate", "edit.create"]
    state = client.get("/v1/audit/verify").json()
    assert (state["intact"], state["entries"], state["broken_at"]) == (True, 4, None)


def test_names_change_in_answers_and_numbers_do_not(client: TestClient) -> None:
    before = predicted(client)
    first, second = (part["concept"] for part in before["contributions"][:2])
    active(
        client,
        {"op": "rename", "concept": first, "name": "trainer"},
        {"op": "block", "concept": second},
    )
    after = predicted(client)
    numbers = ("logit", "bias", "remainder", "probability", "class")
    assert [before[key] for key in numbers] == [after[key] for key in numbers]
    assert [part["name"] for part in after["contributions"][:2]] == ["trainer", f"concept {second}"]
    concepts = "/v1/dictionaries/insects/concepts"
    listed = client.get(f"{concepts}?limit=500").json()["concepts"]
    assert second not in [one["concept"] for one in listed]
    blocked = client.get(f"{concepts}?status=blocked").json()["concepts"]
    assert [one["concept"] for one in blocked] == [second]
    assert client.get(f"{concepts}/{first}").json()["score"] is None
    found = client.get("/v1/dictionaries/insects/search?text=wing&limit=500").json()["matches"]
    assert second not in [match["concept"] for match in found]


def test_edits_build_on_each_other_and_are_listed_newest_first(client: TestClient) -> None:
    first = active(client, {"op": "rename", "concept": 0, "name": "foot"})
    rival = propose(client, {"op": "rename", "concept": 0, "name": "toe"})
    second = active(client, {"op": "rename", "concept": 1, "name": "sail"})
    assert (second["parent"], rival["parent"]) == (first["id"], first["id"])
    step(client, rival, "evaluate")
    refused = client.post(f"{EDITS}/{rival['id']}/activate", json=ADA)
    assert "somebody else changed the model" in problem(refused, 409)
    page = client.get(f"{EDITS}?limit=2").json()
    assert [edit["id"] for edit in page["edits"]] == [second["id"], rival["id"]]
    assert page["total"] == 3
    assert page["next"]
    names = [client.get(f"/v1/dictionaries/insects/concepts/{c}").json()["name"] for c in (0, 1)]
    assert names == ["foot", "sail"]


def test_of_two_who_activate_at_once_one_is_told(client: TestClient) -> None:
    edits = [propose(client, {"op": "rename", "concept": c, "name": "x"}) for c in range(2)]
    for edit in edits:
        step(client, edit, "evaluate")
    start = threading.Barrier(2)

    def activate(edit: dict[str, Any]) -> int:
        start.wait()
        return client.post(f"{EDITS}/{edit['id']}/activate", json=ADA).status_code

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(activate, edits)) == [200, 409]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"operations": []}, 422, "operations"),
        ({"operations": [{"op": "remove", "concept": C}]}, 422, f"0 to {C - 1}"),
        ({"operations": [{"op": "remove"}]}, 422, "concept"),
        ({"operations": [{"op": "explode"}]}, 422, "op"),
        ({"operations": [{"op": "rename", "concept": 1, "name": "\n"}]}, 422, "control character"),
        (
            {"operations": [{"op": "set_weight", "class": "ann", "concept": 1, "weight": 0}]},
            404,
            "Nearest known names: ant",
        ),
        ({"operations": [{"op": "refit"}], "extra": 1}, 422, "extra"),
        ({"operations": [{"op": "refit"}], "author": "a" * 201}, 422, "author"),
    ],
)
def test_edits_that_cannot_be(
    client: TestClient, body: dict[str, Any], status: int, message: str
) -> None:
    assert message in problem(client.post(EDITS, json={"author": "ada"} | body), status)
    assert client.get("/v1/audit").json()["total"] == 0


def test_an_author_is_needed(client: TestClient) -> None:
    body = {"operations": [{"op": "refit"}]}
    assert "author is missing" in problem(client.post(EDITS, json=body), 422)


@pytest.mark.parametrize("verb", ["", "/evaluate", "/activate", "/revert"])
def test_an_unknown_edit(client: TestClient, verb: str) -> None:
    send = client.post if verb else client.get
    assert "Unknown edit of model 'insects' '77'" in problem(send(f"{EDITS}/77{verb}"), 404)


def test_another_process_notices_within_a_second(
    process: Process, root: Path, encoder: Encoder, database: Database, tmp_path: Path
) -> None:
    other = Process(root, encoder, database, tmp_path)
    before = predicted(other.client)
    concept = before["contributions"][0]["concept"]
    active(process.client, {"op": "rename", "concept": concept, "name": "trainer"})
    other.clock.seconds = 0.9
    assert predicted(other.client) == before
    other.clock.seconds = 1.1
    assert predicted(other.client)["contributions"][0]["name"] == "trainer"
    # and one that starts now begins with it
    third = Process(root, encoder, database, tmp_path)
    assert third.registry.model("insects").edit == 1


def test_a_request_that_runs_keeps_its_model(process: Process) -> None:
    held = process.registry.model("insects")
    active(process.client, {"op": "rename", "concept": 0, "name": "foot"})
    assert held.catalogue.concept(0).name == "leg"
    assert process.registry.model("insects").catalogue.concept(0).name == "foot"
    assert process.registry.model("insects").base is held


def test_predictions_go_on_without_a_database(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down() -> Any:
        raise Unavailable("The database does not answer.")

    before = predicted(process.client)
    monkeypatch.setattr(process.curation.store, "versions", down)
    process.clock.seconds = 5
    assert predicted(process.client) == before


def test_one_edit_is_measured_at_a_time(process: Process) -> None:
    edit = propose(process.client, {"op": "rename", "concept": 0, "name": "foot"})
    url = f"{EDITS}/{edit['id']}/evaluate"
    with process.curation.measuring():
        response = process.client.post(url)
    assert "being evaluated" in problem(response, 503)
    assert response.headers["retry-after"]
    assert process.client.post(url).status_code == 200


def test_the_name_of_the_key_is_the_author(process: Process) -> None:
    app = process.client.app

    async def named(scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["key_name"] = "editor"
        await app(scope, receive, send)

    with TestClient(named) as client:
        assert propose(client, {"op": "refit"})["author"] == "editor"


def test_without_a_database_there_are_no_edits(root: Path, encoder: Encoder) -> None:
    registry = Registry([serve_model("insects", root, Predictor.load(root, encoder=encoder))])
    client = client_for(create_app(registry, OPTIONS))
    assert "keeps no edits" in problem(client.get(EDITS), 503)
    assert predicted(client)["class"]


def test_edits_ask_for_the_scope(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    base = "/v1/models/{model}/edits"
    asked = {
        (method, path)
        for path, methods in paths.items()
        for method, operation in methods.items()
        if operation.get("x-dncbm-scope") == "edit" and path.startswith(base)
    }
    steps = {("post", f"{base}/{{edit}}/{verb}") for verb in ("evaluate", "activate", "revert")}
    assert asked == {("post", base), *steps}


def test_an_edit_that_cannot_be_served_leaves_the_old_model(
    process: Process, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    edit = propose(process.client, {"op": "rename", "concept": 0, "name": "foot"})
    step(process.client, edit, "evaluate")
    key = key_of(process.registry.model("insects"))

    def broken(*_: Any) -> Any:
        raise Unavailable("Refitted heads are gone.")

    with monkeypatch.context() as patch:
        patch.setattr("dncbm.curation.workbench.Workbench.active", broken)
        process.curation.store.activate(key, edit["id"], author="ada")
        for seconds in (2, 4):
            process.clock.seconds = seconds
            assert predicted(process.client)["class"]
    assert caplog.text.count("cannot be served: Refitted heads are gone") == 1
    process.clock.seconds = 6
    assert predicted(process.client)
    assert process.registry.model("insects").edit == edit["id"]


def test_a_diff_is_of_what_is_served(
    root: Path, encoder: Encoder, database: Database, tmp_path: Path
) -> None:
    """Names, weights and accuracy of the active edit, not those of the model as it was made."""
    process = Process(root, encoder, database, tmp_path)
    plain = serve_model("plain", root, Predictor.load(root, encoder=encoder))
    process.registry.add(plain)
    client, url = process.client, "/v1/models/plain/diff/insects"
    before = client.get(url).json()
    assert before["weights"] == []

    top = predicted(client)["contributions"][0]
    operations = [{"op": "remove", "concept": top["concept"]},
                  {"op": "rename", "concept": 1, "name": "antenna"}]  # fmt: skip
    edit = active(client, *operations)
    found = client.get(url).json()
    changed = {item["concept_a"] for item in found["weights"]}
    assert changed == {top["concept"]}
    assert all(item["after"] == 0 for item in found["weights"])
    concepts = client.get("/v1/dictionaries/plain/diff/insects?change=renamed").json()["concepts"]
    assert {item["name_b"] for item in concepts} >= {"antenna"}
    measured = {row["head"]: row for row in edit["evaluation"]["heads"]}
    told = {item["head"]: item for item in found["accuracy"]}
    assert {item["split"] for item in found["accuracy"]} == {"validation"}
    assert told.keys() == measured.keys()
    for head, item in told.items():
        assert item["before"] == pytest.approx(measured[head]["accuracy_before"])
        assert item["after"] == measured[head]["accuracy_after"]

    step(client, edit, "revert")
    assert client.get(url).json() == before
