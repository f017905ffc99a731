"""The methods of the client, one per thing that the service does."""

import json
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar, final
from urllib.parse import quote

import httpx

from dncbm.client import results
from dncbm.client.decode import from_json
from dncbm.client.transport import Photo, Transport, files_of
from dncbm.errors import DncbmError
from dncbm.types import ListedBy

_T = TypeVar("_T")


@final
class Client:
    """A service at `url`; closes its connections at the end of a `with` block.

    Every method raises an error of `dncbm.errors` with what the service says: `UnknownName` (404),
    `InvalidInput` (other 4xx), `ArtifactMismatch` (409), `Unavailable` (no answer, or busy after
    all retries). Wherever `effective_concepts` is left out, the dense probe answers.

    Args:
        url: of the service.
        api_key: where it asks for one.
        timeout: seconds to connect, and between two pieces of an answer.
        retries: how often a busy service is asked again, after the time it names.
        transport: of httpx, instead of the network.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = Transport(
            url, api_key=api_key, timeout=timeout, retries=retries, transport=transport
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    # Models

    def models(self) -> list[results.Model]:
        """What is served."""
        return list(self._pages(results.Model, "/v1/models", "models"))

    def model(self, model: str) -> results.Model:
        """A model with its details."""
        return self._get(results.Model, _path("models", model))

    def classes(
        self, model: str, *, effective_concepts: int | None = None
    ) -> list[results.ClassSummary]:
        """The classes of a model."""
        path = _path("models", model, "classes")
        return list(self._pages(results.ClassSummary, path, "classes", nec=effective_concepts))

    def weights(
        self, model: str, class_name: str, *, effective_concepts: int | None = None
    ) -> list[results.Weight]:
        """What a class looks for: its weights that are not 0, largest by absolute value first."""
        path = _path("models", model, "classes", class_name)
        return list(self._pages(results.Weight, path, "weights", nec=effective_concepts))

    def evaluation(self, model: str) -> results.Evaluation:
        """How good a model is, and what its mistakes rest on."""
        return self._get(results.Evaluation, _path("models", model, "evaluation"))

    # Photos

    def predict(
        self,
        model: str,
        images: Sequence[Photo],
        *,
        effective_concepts: int | None = None,
        top_contributions: int = 5,
        top_classes: int = 1,
        by: ListedBy = "concept",
    ) -> list[results.ImagePrediction]:
        """The best class of each photo, with named contributions."""
        query = _query(
            nec=effective_concepts,
            top_contributions=top_contributions,
            top_classes=top_classes,
            by=by,
        )
        path = _path("models", model, "predict")
        answer = self._http.send("POST", path, params=query, files=files_of(images))
        return _all(results.ImagePrediction, answer["predictions"])

    def explain(
        self,
        model: str,
        images: Sequence[Photo],
        *,
        classes: Sequence[int | str] = (),
        concepts: Sequence[int | str] = (),
        texts: Sequence[str] = (),
        **query: Any,
    ) -> list[results.ImageExplanation]:
        """Maps of each photo: of what is asked for, else of the class and its `top` concepts.

        Args:
            model: which.
            images: photos.
            classes: indices or names; their logits.
            concepts: indices or names; their codes.
            texts: their cosines with the photo.
            query: `effective_concepts`, `top`, and `arrays=True` for the numbers of the maps.
        """
        wanted = {"class": list(classes), "concept": list(concepts), "text": list(texts)}
        path = _path("models", model, "explain")
        answer = self._http.send(
            "POST", path, params=_query(**query) | wanted, files=files_of(images)
        )
        return _all(results.ImageExplanation, answer["explanations"])

    def intervene(
        self,
        model: str,
        images: Sequence[Photo],
        changes: Sequence[Mapping[str, Any]],
        **query: Any,
    ) -> list[results.Intervention]:
        """What each decision would be with other codes.

        Args:
            model: which.
            images: photos.
            changes: for example `{"concept": "sneaker", "set": 0.0}`, or with `scale` or `remove`.
            query: `effective_concepts`, `top_contributions`, `top_classes`, `by`.
        """
        path = _path("models", model, "intervene")
        answer = self._http.send(
            "POST",
            path,
            params=_query(**query),
            files=files_of(images),
            data={"changes": json.dumps([dict(change) for change in changes])},
        )
        return _all(results.Intervention, answer["interventions"])

    # Dictionaries

    def dictionaries(self) -> list[results.DictionarySummary]:
        """The dictionaries that are served."""
        return list(self._pages(results.DictionarySummary, "/v1/dictionaries", "dictionaries"))

    def concepts(self, dictionary: str, **query: Any) -> Iterator[results.Concept]:
        """Concepts that match, page by page as they are read.

        Args:
            dictionary: which.
            query: `name`, `status`, `sort`, `order`, `class_name`, `effective_concepts`.
        """
        path = _path("dictionaries", dictionary, "concepts")
        return self._pages(results.Concept, path, "concepts", **query)

    def concept(
        self, dictionary: str, concept: int, *, effective_concepts: int | None = None
    ) -> results.ConceptDetail:
        """All about a concept."""
        path = _path("dictionaries", dictionary, "concepts", concept)
        return self._get(results.ConceptDetail, path, nec=effective_concepts)

    def examples(self, dictionary: str, concept: int) -> list[results.Example]:
        """Images in which a concept is strongest, best first."""
        path = _path("dictionaries", dictionary, "concepts", concept, "examples")
        return list(self._pages(results.Example, path, "examples"))

    def concept_map(self, dictionary: str) -> results.ConceptMap:
        """The concepts on a plane."""
        return self._get(results.ConceptMap, _path("dictionaries", dictionary, "map"))

    def search(self, dictionary: str, text: str, *, limit: int = 10) -> list[results.Match]:
        """Concepts nearest to a text, best first."""
        path = _path("dictionaries", dictionary, "search")
        answer = self._http.send("GET", path, params={"text": text, "limit": limit})
        return _all(results.Match, answer["matches"])

    def search_image(
        self, dictionary: str, image: Photo, *, limit: int = 10
    ) -> list[results.StrongConcept]:
        """Concepts strongest in a photo."""
        return _all(results.StrongConcept, self._matches(dictionary, "search", image, limit))

    def similar(
        self, dictionary: str, image: Photo, *, limit: int = 10
    ) -> list[results.SimilarImage]:
        """Training images like a photo, by concepts, best first."""
        return _all(results.SimilarImage, self._matches(dictionary, "similar", image, limit))

    def _matches(self, dictionary: str, route: str, image: Photo, limit: int) -> Any:
        path = _path("dictionaries", dictionary, route)
        query = {"limit": limit}
        return self._http.send("POST", path, params=query, files=files_of([image]))["matches"]

    # Edits

    def edits(self, model: str) -> list[results.Edit]:
        """The edits of a model, newest first."""
        return list(self._pages(results.Edit, _path("models", model, "edits"), "edits"))

    def edit(self, model: str, edit: int | str) -> results.Edit:
        """An edit."""
        return self._get(results.Edit, _path("models", model, "edits", edit))

    def propose_edit(
        self,
        model: str,
        operations: Sequence[Mapping[str, Any]],
        *,
        author: str | None = None,
        reason: str = "",
    ) -> results.Edit:
        """Write down an edit; it changes nothing until it is evaluated and activated.

        Args:
            model: which.
            operations: for example `{"op": "remove", "concept": 17}`.
            author: who proposes it.
            reason: why.
        """
        body = {"operations": [dict(item) for item in operations], "reason": reason}
        body |= {} if author is None else {"author": author}
        answer = self._http.send("POST", _path("models", model, "edits"), json=body)
        return from_json(results.Edit, answer)

    def evaluate_edit(self, model: str, edit: int | str) -> results.Edit:
        """Measure what an edit costs."""
        return self._step(model, edit, "evaluate")

    def activate_edit(self, model: str, edit: int | str) -> results.Edit:
        """Serve an edit that was evaluated."""
        return self._step(model, edit, "activate")

    def revert_edit(self, model: str, edit: int | str) -> results.Edit:
        """Go back to the state before an edit."""
        return self._step(model, edit, "revert")

    def _step(self, model: str, edit: int | str, step: str) -> results.Edit:
        path = _path("models", model, "edits", edit, step)
        return from_json(results.Edit, self._http.send("POST", path))

    # Jobs

    def submit(
        self,
        name: str,
        pipeline: str,
        config: Mapping[str, Any] | None = None,
        *,
        priority: int = 0,
    ) -> results.Job:
        """Queue a pipeline, for example `discover`; larger priorities start first."""
        body = {
            "name": name,
            "pipeline": pipeline,
            "config": dict(config or {}),
            "priority": priority,
        }
        return from_json(results.Job, self._http.send("POST", "/v1/jobs", json=body))

    def jobs(self, *, status: str | None = None) -> Iterator[results.Job]:
        """Jobs, newest first, page by page as they are read."""
        return self._pages(results.Job, "/v1/jobs", "jobs", status=status)

    def job(self, job: str) -> results.Job:
        """A job and how far it is."""
        return self._get(results.Job, _path("jobs", job))

    def logs(self, job: str) -> Iterator[results.LogLine]:
        """The log of a job, oldest line first."""
        return self._pages(results.LogLine, _path("jobs", job, "logs"), "logs")

    def events(self, job: str) -> Iterator[results.Job | results.LogLine]:
        """Follow a job: its state whenever it changes, and the lines of its log, until its end."""
        for event, data in self._http.events(_path("jobs", job, "events")):
            if event == "progress":
                yield from_json(results.Job, data)
            elif event == "log":
                yield from_json(results.LogLine, data)
            elif event == "error":
                raise DncbmError(str(data.get("detail", data)))
            elif event == "end":
                return

    def wait(self, job: str) -> results.Job:
        """The job when it is over; its `status` says how it ended."""
        for _ in self.events(job):
            pass
        return self.job(job)

    def cancel(self, job: str) -> results.Job:
        """End a job."""
        return from_json(results.Job, self._http.send("DELETE", _path("jobs", job)))

    def retry(self, job: str) -> results.Job:
        """Go on with a job that failed or was cancelled."""
        return from_json(results.Job, self._http.send("POST", _path("jobs", job, "retry")))

    # Drift

    def drift(self, model: str) -> results.Drift:
        """Whether the photos of users differ from those of training, concept by concept."""
        path = _path("models", model, "drift")
        first = self._http.send("GET", path, params={"limit": _PAGE})
        rest = self._pages(dict, first.get("next"), "concepts") if first.get("next") else ()
        return from_json(results.Drift, first | {"concepts": [*first["concepts"], *rest]})

    def reset_drift(self, model: str) -> None:
        """Forget the photos of users and count anew."""
        self._http.send("DELETE", _path("models", model, "drift"))

    # What all use

    def _get(self, kind: type[_T], path: str, **query: Any) -> _T:
        return from_json(kind, self._http.send("GET", path, params=_query(**query)))

    def _pages(self, kind: type[_T], path: str, key: str, **query: Any) -> Iterator[_T]:
        """The items of a list, following `next`."""
        parameters: dict[str, Any] | None = _query(limit=_PAGE, **query)
        address: str | None = path
        while address:
            if "?" in address:  # a further page says all in its address
                parameters = None
            answer = self._http.send("GET", address, params=parameters)
            yield from _all(kind, answer[key])
            address = answer["next"]


_PAGE = 100
_NAMES = {"class_name": "class", "effective_concepts": "nec"}


def _path(*parts: object) -> str:
    return "/v1/" + "/".join(quote(str(part), safe="") for part in parts)


def _query(**values: Any) -> dict[str, Any]:
    """Query parameters under their names in the API; None is left out."""
    return {_NAMES.get(name, name): value for name, value in values.items() if value is not None}


def _all(kind: type[_T], items: Any) -> list[_T]:
    return [from_json(kind, item) for item in items]
