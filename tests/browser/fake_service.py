"""A service that answers with the shapes of the API and made-up content; the page itself is real.

It stands alone, so that the page is tested against every route, whatever a build has.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from api.routes import pages
from tests.browser.fake_content import HOSTILE, NAMES, Content, data_address, picture


@dataclass
class FakeService:
    """What a test sets, and what the page sent."""

    content: Content = field(default_factory=Content)
    without: frozenset[str] = frozenset()
    models: tuple[str, ...] = ("clothing", "second")
    key: str | None = None
    drift_enabled: bool = True
    grouped: bool = False
    sent: list[tuple[str, Any]] = field(default_factory=list)
    busy: int = 0
    edits: dict[int, dict[str, Any]] = field(default_factory=dict)
    aliases: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def app(self) -> FastAPI:
        """The application: the real page, and routes of this service without those left out."""
        app = FastAPI()
        app.state.service = SimpleNamespace(
            registry=SimpleNamespace(models=[]),
            keys=SimpleNamespace(is_asked=self.key is not None),
            options=SimpleNamespace(max_upload_bytes=1 << 20),
        )
        app.include_router(pages.router)
        app.middleware("http")(self._guard)
        _add_models(app, self)
        _add_registry(app, self)
        _add_dictionary(app, self)
        for name, add in _ROOMS.items():
            if name not in self.without:
                add(app, self)
        return app

    async def _guard(self, request: Request, proceed: Any) -> Response:
        if request.url.path.startswith("/v1/"):
            if self.key is not None and request.headers.get("x-api-key") != self.key:
                return problem(401, "This service asks for an API key.")
            if self.busy and request.method == "POST":
                self.busy -= 1
                return problem(503, "Busy.", {"Retry-After": "0"})
        answer: Response = await proceed(request)
        return answer


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"status": status, "detail": detail}, status, headers)


def page(name: str, items: list[Any], limit: int, offset: int) -> dict[str, Any]:
    return {
        name: items[offset : offset + limit],
        "total": len(items),
        "limit": limit,
        "offset": offset,
        "next": None,
    }


def _add_models(app: FastAPI, fake: FakeService) -> None:
    content = fake.content

    @app.get("/v1/models")
    def models(limit: int = 50) -> Any:
        return page("models", [content.model(name) for name in fake.models], limit, 0)

    @app.get("/v1/models/{model}")
    def describe(model: str) -> Any:
        accuracy = {"test": {"dense": 0.77, "nec5": 0.7, "nec10": 0.75}}
        return content.model(model) | {"details": {"metrics": {"accuracy": accuracy}}}

    @app.post("/v1/models/{model}/predict")
    async def predict(
        model: str, request: Request, top_contributions: int, by: str, nec: int | None = None
    ) -> Any:
        async with request.form() as form:
            upload: Any = form["image"]
            if b"broken" in await upload.read():
                return problem(422, f"Image {upload.filename!r} cannot be used: it is truncated.")
        fake.sent.append(("predict", {"model": model, "nec": nec, "by": by}))
        found = content.decide({}, top_contributions, nec)
        if fake.grouped and by == "name":
            found = content.by_name(found)
        return {"model": model, "predictions": [found | {"image": upload.filename}]}

    @app.get("/v1/models/{model}/classes/{name:path}")
    def weights(model: str, name: str, limit: int = 50, offset: int = 0) -> Any:
        listed = content.weights_of(name)
        return {"index": 0, "class": name, "bias": 0.1} | page("weights", listed, limit, offset)


def _add_registry(app: FastAPI, fake: FakeService) -> None:
    @app.get("/v1/aliases")
    def aliases() -> Any:
        return page("aliases", list(fake.aliases.values()), 500, 0)

    @app.put("/v1/aliases/{alias}")
    async def set_alias(alias: str, request: Request) -> Any:
        fake.aliases[alias] = {"alias": alias} | await request.json()
        return fake.aliases[alias]

    @app.delete("/v1/aliases/{alias}", status_code=204)
    def drop_alias(alias: str) -> None:
        del fake.aliases[alias]

    @app.get("/v1/models/{model}/lineage")
    def lineage(model: str) -> Any:
        sae = {"role": "sae", "kind": "sae", "fingerprint": "b" * 64, "inputs": []}
        cbm = {"kind": "cbm", "fingerprint": "a" * 64, "created": "2026-01-02", "inputs": [sae]}
        return {"model": model, "lineage": cbm | {"role": "cbm"}}


def _add_dictionary(app: FastAPI, fake: FakeService) -> None:
    content = fake.content
    root = "/v1/dictionaries/{dictionary}"

    @app.get(root + "/concepts")
    def concepts(
        name: str = "",
        status: str = "",
        sort: str = "concept",
        limit: int = 50,
        offset: int = 0,
    ) -> Any:
        fake.sent.append(("concepts", {"name": name, "status": status, "sort": sort}))
        return page("concepts", content.find(name, status, sort), limit, offset)

    @app.get(root + "/concepts/{concept}")
    def concept(concept: int) -> Any:
        if concept >= content.size:
            return problem(404, f"There is no concept {concept}.")
        return content.detail(concept)

    @app.get(root + "/concepts/{concept}/examples")
    def examples(concept: int, limit: int = 50) -> Any:
        listed = [content.example(concept, rank) for rank in range(6)]
        return {"concept": concept, "name": ""} | page("examples", listed, limit, 0)

    @app.get(root + "/thumbnails/{row}.jpg")
    def thumbnail(row: int) -> Response:
        return Response(picture(row), media_type="image/png")

    @app.get(root + "/search")
    def search(text: str, limit: int = 10) -> Any:
        matches = [
            {"concept": one, "name": content.name(one), "score": 0.5 - one / 100}
            for one in range(5)
        ]
        return {"text": text, "matches": matches[:limit]}

    @app.post(root + "/search")
    def search_image() -> Any:
        return {"matches": [{"concept": 2, "name": content.name(2), "code": 3.5}]}


def _intervene(app: FastAPI, fake: FakeService) -> None:
    @app.post("/v1/models/{model}/intervene")
    async def intervene(model: str, request: Request, top_contributions: int) -> Any:
        async with request.form() as form:
            changes = json.loads(str(form["changes"]))
        fake.sent.append(("intervene", changes))
        return {"model": model, "interventions": [fake.content.intervene(changes)]}


def _explain(app: FastAPI, fake: FakeService) -> None:
    @app.post("/v1/models/{model}/explain")
    def explain(model: str, concept: int) -> Any:
        fake.sent.append(("explain", concept))
        exact = concept % 2 == 0
        item = {
            "kind": "concept",
            "name": fake.content.name(concept),
            "index": concept,
            "value": 1.5,
            "method": "bcos" if exact else "grad_cam",
            "exact": exact,
            "heat": data_address(concept),
        }
        found = {"image": "x", "seen": data_address(0), "attributions": [item]}
        return {"model": model, "explanations": [found]}


def _evaluation(app: FastAPI, fake: FakeService) -> None:
    @app.get("/v1/models/{model}/evaluation")
    def evaluation(model: str) -> Any:
        return fake.content.evaluation()


def _map(app: FastAPI, fake: FakeService) -> None:
    @app.get("/v1/dictionaries/{dictionary}/map")
    def plane(dictionary: str) -> Any:
        return fake.content.plane()


def _similar(app: FastAPI, fake: FakeService) -> None:
    @app.post("/v1/dictionaries/{dictionary}/similar")
    def similar(dictionary: str, limit: int) -> Any:
        shared = [{"concept": 1, "name": NAMES[1]}, {"concept": 2, "name": HOSTILE}]
        matches = [
            fake.content.example(1, rank) | {"similarity": 0.9 - rank / 10, "shared": shared}
            for rank in range(5)
        ]
        return {"matches": matches[:limit]}


def _edits(app: FastAPI, fake: FakeService) -> None:
    root = "/v1/models/{model}/edits"

    @app.post(root, status_code=201)
    async def make(model: str, request: Request) -> Any:
        fresh = {
            "id": len(fake.edits) + 1,
            "model": model,
            "parent": None,
            "created": "2026-11-29T20:00:00+00:00",
            "status": "draft",
            "evaluation": None,
        }
        fake.edits[fresh["id"]] = fresh | await request.json()
        return fake.edits[fresh["id"]]

    @app.get(root)
    def edits(model: str, limit: int = 50) -> Any:
        return page("edits", list(fake.edits.values()), limit, 0)

    @app.get(root + "/{edit}")
    def one(edit: int) -> Any:
        return fake.edits[edit]

    @app.post(root + "/{edit}/{verb}")
    def act(edit: int, verb: str) -> Any:
        found = fake.edits[edit]
        if verb == "activate" and found["evaluation"] is None:
            return problem(409, "The edit was not evaluated.")
        if verb == "evaluate":
            found["evaluation"] = fake.content.edit_evaluation()
        became = {"evaluate": "evaluated", "activate": "active", "revert": "reverted"}
        found["status"] = became[verb]
        return found


def _audit(app: FastAPI, fake: FakeService) -> None:
    @app.get("/v1/audit")
    def audit() -> Any:
        entry = {
            "n": 1,
            "time": "2026-11-29T20:00:00+00:00",
            "author": "Ada",
            "action": "edit.activate",
            "subject": "clothing",
            "detail": {"edit": 1},
            "hash": "c" * 64,
        }
        return page("entries", [entry], 50, 0)

    @app.get("/v1/audit/verify")
    def verify() -> Any:
        return {"intact": True, "entries": 1, "broken_at": None}


def _jobs(app: FastAPI, fake: FakeService) -> None:
    @app.post("/v1/jobs", status_code=202)
    async def submit(request: Request) -> Any:
        number = len(fake.jobs) + 1
        job = fake.content.job(f"j{number}") | await request.json()
        fake.sent.append(("job", job))
        fake.jobs[job["id"]] = job
        return job

    @app.get("/v1/jobs")
    def jobs(limit: int = 50, status: str = "") -> Any:
        found = [job for job in fake.jobs.values() if status in ("", job["status"])]
        return page("jobs", found, limit, 0)

    @app.get("/v1/jobs/{job}")
    def one(job: str) -> Any:
        return fake.jobs[job]

    @app.get("/v1/jobs/{job}/logs")
    def logs(job: str) -> Any:
        line = {"time": "2026-11-29T20:00:01Z", "level": "INFO", "message": "began"}
        return page("logs", [line], 50, 0)

    @app.get("/v1/jobs/{job}/events")
    def events(job: str) -> StreamingResponse:
        return StreamingResponse(_events(fake.jobs[job]), media_type="text/event-stream")

    @app.delete("/v1/jobs/{job}")
    def cancel(job: str) -> Any:
        fake.jobs[job]["status"] = "cancelled"
        return fake.jobs[job]

    @app.post("/v1/jobs/{job}/retry", status_code=202)
    def retry(job: str) -> Any:
        fake.jobs[job]["status"] = "succeeded"
        return fake.jobs[job]


async def _events(job: dict[str, Any]) -> AsyncIterator[str]:
    """Two steps of progress and a line of the log, then quiet until the job is over."""

    def event(kind: str, data: Any) -> str:
        return f"event: {kind}\ndata: {json.dumps(data)}\n\n"

    job["status"] = "running"
    job["stages"][0].update(status="running", done=40, rate=12.5, eta_seconds=90)
    yield ": open\n\n" + event("progress", job)
    line = {"time": "2026-11-29T20:00:02Z", "level": "WARNING", "message": HOSTILE}
    yield event("log", line)
    while job["status"] == "running":
        await asyncio.sleep(0.05)
    yield event("end", None)


def _drift(app: FastAPI, fake: FakeService) -> None:
    @app.get("/v1/models/{model}/drift")
    def drift(model: str, limit: int = 50) -> Any:
        shifts = [fake.content.shift(one) for one in range(4)] if fake.drift_enabled else []
        state = {"model": model, "enabled": fake.drift_enabled, "images": 120}
        return state | {"since": "2026-11-01T00:00:00Z"} | page("concepts", shifts, limit, 0)

    @app.delete("/v1/models/{model}/drift", status_code=204)
    def anew(model: str) -> None:
        fake.sent.append(("drift", "anew"))


_ROOMS = {
    "intervene": _intervene,
    "explain": _explain,
    "evaluation": _evaluation,
    "map": _map,
    "similar": _similar,
    "edits": _edits,
    "audit": _audit,
    "jobs": _jobs,
    "drift": _drift,
}
OPTIONAL = frozenset(_ROOMS)
