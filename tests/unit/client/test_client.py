"""The client against answers of the contract, without a service."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from dncbm.client import Client
from dncbm.client.decode import from_json
from dncbm.client.results import Job, LogLine, Model
from dncbm.client.transport import Transport
from dncbm.errors import (
    ArtifactMismatch,
    DncbmError,
    InvalidInput,
    Unavailable,
    UnknownName,
)

JOB = {
    "id": "j1",
    "name": "clothing",
    "pipeline": "discover",
    "config": {"data": "x.zip"},
    "status": "running",
    "priority": 0,
    "created": "2026-11-29T20:00:00Z",
    "started": None,
    "finished": None,
    "stages": [
        {
            "name": "embed",
            "status": "running",
            "done": 5,
            "total": 10,
            "rate": 2,
            "eta_seconds": 2.5,
            "error": None,
        }
    ],
    "error": None,
    "model": None,
}
EDIT = {
    "id": 3,
    "model": "clothing",
    "parent": None,
    "operations": [{"op": "remove", "concept": 17}],
    "author": "ada",
    "reason": "laces",
    "created": "2026-11-29T20:00:00+00:00",
    "status": "evaluated",
    "evaluation": {
        "split": "test",
        "images": 372,
        "accuracy_before": 0.77,
        "accuracy_after": 0.76,
        "per_class": [{"class": "Shoes", "images": 9, "accuracy_before": 1, "accuracy_after": 0.9}],
    },
}
SCORE = {
    "class": "Shoes",
    "class_index": 1,
    "probability": 0.9,
    "logit": 2.0,
    "bias": 0.5,
    "remainder": 1.5,
    "contributions": [],
}
PREDICTION = {**SCORE, "image": "photo.jpg", "alternatives": [SCORE]}


class Recorded:
    """A service that gives canned answers and remembers what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self.answers.pop(0)
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    @property
    def last(self) -> httpx.Request:
        return self.requests[-1]

    def client(self, **options: Any) -> Client:
        return Client("http://service", transport=httpx.MockTransport(self), **options)


def page(key: str, *items: Any, following: str | None = None) -> dict[str, Any]:
    return {key: list(items), "total": 9, "limit": 1, "offset": 0, "next": following}


def test_import_is_light() -> None:
    code = (
        "import sys, dncbm.client; "
        "print([name for name in ('torch', 'open_clip', 'sklearn', 'fastapi') "
        "if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert found.stdout.strip() == "[]"


def test_intervene() -> None:
    answer = {
        "model": "clothing",
        "interventions": [
            {
                "image": "photo.jpg",
                "before": PREDICTION,
                "after": PREDICTION,
                "changed": [
                    {"concept": 17, "name": "sneaker", "code_before": 2, "code_after": 0.0}
                ],
            }
        ],
    }
    service = Recorded(answer)
    changes = [{"concept": "sneaker", "set": 0.0}]
    [found] = service.client().intervene("clothing", [b"jpeg"], changes, effective_concepts=5)
    assert found.changed[0].code_before == 2.0
    assert found.after.class_name == "Shoes"
    assert found.before.alternatives[0].logit == 2.0
    assert service.last.url.raw_path == b"/v1/models/clothing/intervene?nec=5"
    assert json.dumps(changes).encode() in service.last.content
    assert b'name="image"; filename="image0"' in service.last.content


STEPS: dict[str, Callable[[Client], Any]] = {
    "/v1/models/clothing/edits/3/evaluate": lambda client: client.evaluate_edit("clothing", 3),
    "/v1/models/clothing/edits/3/activate": lambda client: client.activate_edit("clothing", 3),
    "/v1/models/clothing/edits/3/revert": lambda client: client.revert_edit("clothing", 3),
    "/v1/models/clothing/edits/3": lambda client: client.edit("clothing", 3),
}


@pytest.mark.parametrize("path", STEPS)
def test_steps_of_an_edit(path: str) -> None:
    service = Recorded(EDIT)
    found = STEPS[path](service.client())
    assert service.last.url.path == path
    assert service.last.method == ("GET" if path.endswith("3") else "POST")
    assert (found.id, found.status) == (3, "evaluated")
    assert found.evaluation.per_class[0].class_name == "Shoes"
    assert found.created.tzinfo is not None


def test_an_edit_is_proposed() -> None:
    service = Recorded(httpx.Response(201, json=EDIT), page("edits", EDIT))
    operations = [{"op": "remove", "concept": 17}]
    client = service.client()
    assert client.propose_edit("clothing", operations, author="ada", reason="laces").id == 3
    assert json.loads(service.last.content) == {
        "operations": operations,
        "author": "ada",
        "reason": "laces",
    }
    assert [edit.operations for edit in client.edits("clothing")] == [tuple(operations)]


def test_jobs() -> None:
    service = Recorded(
        httpx.Response(202, json=JOB),
        page("jobs", JOB, following="/v1/jobs?limit=1&offset=1"),
        page("jobs", JOB | {"id": "j2"}),
        JOB,
        JOB | {"status": "cancelled"},
        JOB,
    )
    client = service.client()
    assert client.submit("clothing", "discover", {"data": "x.zip"}).stages[0].rate == 2.0
    assert json.loads(service.last.content)["priority"] == 0
    assert [job.id for job in client.jobs(status="running")] == ["j1", "j2"]
    assert service.requests[1].url.params["status"] == "running"
    assert str(service.last.url) == "http://service/v1/jobs?limit=1&offset=1"
    assert not client.job("j1").is_over
    assert client.cancel("j1").is_over
    assert service.last.method == "DELETE"
    assert client.retry("j1").id == "j1"


def events(*parts: str) -> httpx.Response:
    return httpx.Response(200, text="".join(parts), headers={"Content-Type": "text/event-stream"})


def test_events_of_a_job_until_its_end() -> None:
    line = {"time": "2026-11-29T20:00:00Z", "level": "INFO", "message": "embed: 5 of 10"}
    stream = (
        ": keep alive\n\n",
        f"event: progress\ndata: {json.dumps(JOB)}\n\n",
        f"event: log\ndata: {json.dumps(line)}\n\n",
        "event: colour\ndata: {}\n\n",
        "event: end\ndata: {}\n\n",
        f"event: progress\ndata: {json.dumps(JOB)}\n\n",
    )
    service = Recorded(events(*stream), events(*stream), JOB | {"status": "succeeded"})
    client = service.client()
    job, log = client.events("j1")
    assert isinstance(job, Job)
    assert isinstance(log, LogLine)
    assert log.message == "embed: 5 of 10"
    assert service.last.headers["accept"] == "text/event-stream"
    assert client.wait("j1").status == "succeeded"


def test_failures_of_the_event_stream() -> None:
    problem = {"detail": "Unknown job 'j9'."}
    service = Recorded(
        httpx.Response(404, json=problem), events('event: error\ndata: {"detail": "gone"}\n\n')
    )
    client = service.client()
    with pytest.raises(UnknownName, match="Unknown job 'j9'"):
        list(client.events("j9"))
    with pytest.raises(DncbmError, match="gone"):
        list(client.events("j1"))


def test_drift_gathers_all_pages() -> None:
    concept = {
        "concept": 17,
        "name": "sneaker",
        "density_training": 0.1,
        "density_live": 0.3,
        "mean_training": 1.0,
        "mean_live": 2.0,
        "shift": 0.4,
        "p_value": 0.001,
        "examples": [],
    }
    head = {"model": "clothing", "enabled": True, "images": 9, "since": "2026-11-29T20:00:00Z"}
    service = Recorded(
        head | page("concepts", concept, following="/v1/models/clothing/drift?offset=1"),
        head | page("concepts", concept | {"concept": 18}),
        httpx.Response(204),
    )
    client = service.client()
    found = client.drift("clothing")
    assert [item.concept for item in found.concepts] == [17, 18]
    assert found.images_shifted is None
    client.reset_drift("clothing")
    assert service.last.method == "DELETE"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidInput),
        (401, InvalidInput),
        (404, UnknownName),
        (409, ArtifactMismatch),
        (422, InvalidInput),
        (500, DncbmError),
        (504, Unavailable),
    ],
)
def test_problems_are_errors_of_the_library(status: int, kind: type[DncbmError]) -> None:
    service = Recorded(httpx.Response(status, json={"detail": "what, value, rule"}))
    with pytest.raises(kind, match="^what, value, rule$"):
        service.client().models()


@pytest.mark.parametrize("text", ["", "<html>", "[]", "{}"])
def test_an_answer_that_is_no_problem_document(text: str) -> None:
    with pytest.raises(DncbmError, match="answered 500 without a reason"):
        Recorded(httpx.Response(500, text=text)).client().models()


def waiting(service: Recorded, retries: int = 3) -> tuple[Transport, list[float]]:
    waits: list[float] = []
    transport = Transport(
        "http://service",
        retries=retries,
        transport=httpx.MockTransport(service),
        sleep=waits.append,
    )
    return transport, waits


def busy(status: int = 503, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"detail": "all slots are busy"}, headers=headers)


def test_a_busy_service_is_asked_again_after_the_time_it_names() -> None:
    answers = (busy(**{"Retry-After": "2"}), busy(429, **{"Retry-After": "900"}), busy(), {"a": 1})
    transport, waits = waiting(Recorded(*answers))
    assert transport.send("GET", "/x") == {"a": 1}
    assert waits == [2.0, 30.0, 2.0]


def test_a_service_that_stays_busy() -> None:
    transport, waits = waiting(Recorded(*[busy()] * 3), retries=2)
    with pytest.raises(Unavailable, match="all slots are busy"):
        transport.send("GET", "/x")
    assert len(waits) == 2


def test_no_service() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    client = Client("http://service", transport=httpx.MockTransport(refuse))
    with pytest.raises(Unavailable, match="http://service does not answer: connection refused"):
        client.models()


@pytest.mark.parametrize("url", ["service:8000", "ftp://service", "http://[bad"])
def test_no_address(url: str) -> None:
    with pytest.raises(InvalidInput, match="is not the address of a service"):
        Client(url)


def test_something_else_answers() -> None:
    with pytest.raises(DncbmError, match="is it a dncbm service"):
        Recorded(httpx.Response(200, text="<html>")).client().models()


def test_photos_that_are_none() -> None:
    client = Recorded().client()
    with pytest.raises(InvalidInput, match="at least one photo"):
        client.predict("clothing", [])
    with pytest.raises(InvalidInput, match="list"):
        client.predict("clothing", "photo.jpg")
    with pytest.raises(InvalidInput, match="nothing.jpg cannot be read"):
        client.predict("clothing", ["nothing.jpg"])


@pytest.mark.parametrize(
    "data", [None, [], {}, {"id": 5}, {"id": "a", "dictionary": "a", "classes": "x"}]
)
def test_an_answer_of_another_version(data: Any) -> None:
    with pytest.raises(DncbmError, match="different versions"):
        from_json(Model, data)


def test_names_in_addresses_are_quoted() -> None:
    service = Recorded(page("weights"))
    assert service.client().weights("clothing", "T-Shirt/Top & Co") == []
    assert b"/classes/T-Shirt%2FTop%20%26%20Co" in service.last.url.raw_path


def test_key_is_sent() -> None:
    service = Recorded(page("models"))
    service.client(api_key="clé").models()
    assert ("clé".encode()) in [value for _, value in service.last.headers.raw]
