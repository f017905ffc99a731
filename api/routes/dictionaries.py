"""Browse and search the discovered concepts."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import FileResponse

from api.browse import ModelBrowser
from api.catalogue import Example, finite
from api.conditional import (
    UNCHANGED,
    BrowsersDep,
    DictionaryTag,
    NotModified,
    has_current,
    tag_of,
)
from api.errors import NotFound
from api.registry import ServedModel
from api.schemas import (
    ConceptList,
    DictionaryList,
    DictionaryOut,
    ExampleList,
    ExampleOut,
    Match,
    Order,
    ScoredName,
    SearchAnswer,
    Sort,
    WeightedConcept,
)
from api.schemas.browse import ClassWeight, ConceptPage, HistogramOut
from api.service import DictionaryDep, Nec, PagingDep, ServiceDep
from dncbm.errors import InvalidInput
from dncbm.types import ConceptStatus

router = APIRouter(prefix="/v1/dictionaries", tags=["dictionaries"])

Concept = Annotated[int, Path(description="Row of the dictionary.", ge=0, le=2**31)]


@router.get("", summary="List the dictionaries")
def list_dictionaries(service: ServiceDep, paging: PagingDep) -> DictionaryList:
    """One dictionary per model, under the same id."""
    models = service.registry.models
    return DictionaryList(
        dictionaries=[_dictionary(model) for model in models[paging.part]],
        **paging.bounds(len(models)),  # type: ignore[arg-type]
    )


@router.get(
    "/{dictionary}",
    summary="Describe a dictionary",
    dependencies=[DictionaryTag],
    responses=UNCHANGED,
)
def describe_dictionary(dictionary: DictionaryDep) -> DictionaryOut:
    """How many concepts there are, and how many found a name."""
    return _dictionary(dictionary)


@dataclass(frozen=True, slots=True)
class Sorting:
    """How a list of concepts is sorted, and the class whose weights it shows."""

    by: Sort
    descending: bool
    class_name: str | None


async def read_sorting(
    sort: Sort = "concept",
    order: Annotated[
        Order | None, Query(description="Left out: largest first, `concept` smallest first.")
    ] = None,
    class_name: Annotated[
        str | None,
        Query(
            alias="class",
            max_length=200,
            description="Name or index; adds its `weight` to each concept. `sort=weight` needs it.",
        ),
    ] = None,
) -> Sorting:
    """The sorting asked for in the query.

    Raises:
        InvalidInput: `sort=weight` without a class.
    """
    if sort == "weight" and class_name is None:
        raise InvalidInput("sort=weight needs a class; add for example class=Shoes.")
    descending = (order or ("asc" if sort == "concept" else "desc")) == "desc"
    return Sorting(sort, descending, class_name)


@router.get(
    "/{dictionary}/concepts",
    summary="Browse the concepts",
    dependencies=[DictionaryTag],
    responses=UNCHANGED,
)
def list_concepts(
    dictionary: DictionaryDep,
    paging: PagingDep,
    sorting: Annotated[Sorting, Depends(read_sorting)],
    name: Annotated[
        str | None, Query(max_length=200, description="Part of the name, in any case.")
    ] = None,
    status: ConceptStatus | None = None,
    nec: Nec = None,
) -> ConceptList:
    """Concepts that match, sorted and in pages."""
    weights = _weights(dictionary, sorting.class_name, nec)
    found = dictionary.catalogue.find(
        name=name,
        status=status,
        sort=sorting.by,
        descending=sorting.descending,
        weights=weights,
    )
    return ConceptList(
        concepts=[
            WeightedConcept(
                **_concept(dictionary, index),
                weight=None if weights is None else float(weights[index]),
            )
            for index in found[paging.part]
        ],
        **paging.bounds(len(found)),  # type: ignore[arg-type]
    )


@router.get(
    "/{dictionary}/concepts/{concept}",
    summary="Describe a concept",
    dependencies=[DictionaryTag],
    responses=UNCHANGED,
)
def describe_concept(
    dictionary: DictionaryDep, concept: Concept, browsers: BrowsersDep, nec: Nec = None
) -> ConceptPage:
    """A concept with its other names, how strong it gets, and the classes that look for it."""
    item = dictionary.catalogue.concept(concept)
    return ConceptPage(
        **_concept(dictionary, concept),
        alternatives=[ScoredName(name=name, score=score) for name, score in item.alternatives],
        histogram=_histogram(browsers.of(dictionary), concept),
        classes=_classes(dictionary, concept, nec),
    )


def _histogram(browser: ModelBrowser, concept: int) -> HistogramOut | None:
    try:
        sample = browser.sample()
    except NotFound:  # the model has no embeddings
        return None
    found = sample.histograms
    return HistogramOut(
        edges=found.edges(concept).tolist(),
        counts=found.counts[concept].tolist(),
        inactive=found.inactive(concept),
        images=sample.images,
        total=sample.total,
    )


def _classes(model: ServedModel, concept: int, nec: int | None) -> list[ClassWeight]:
    column = np.asarray(model.probe(nec).weights[:, concept].detach().cpu())
    order = np.argsort(-column, kind="stable").tolist()
    return [
        ClassWeight(class_name=model.predictor.classes[k], weight=float(column[k]))
        for k in order
        if column[k] != 0
    ]


@router.get(
    "/{dictionary}/concepts/{concept}/examples",
    summary="Images of a concept",
    dependencies=[DictionaryTag],
    responses=UNCHANGED,
)
def list_examples(dictionary: DictionaryDep, concept: Concept, paging: PagingDep) -> ExampleList:
    """Images in which the concept is strongest, best first."""
    item = dictionary.catalogue.concept(concept)
    examples = dictionary.catalogue.examples(concept)
    return ExampleList(
        concept=concept,
        name=item.name,
        examples=[_example(dictionary, example) for example in examples[paging.part]],
        **paging.bounds(len(examples)),  # type: ignore[arg-type]
    )


@router.get(
    "/{dictionary}/thumbnails/{row}.jpg",
    summary="A small picture of an example",
    response_class=FileResponse,
    responses=UNCHANGED | {200: {"content": {"image/jpeg": {}}}},
)
def thumbnail(
    request: Request,
    dictionary: DictionaryDep,
    browsers: BrowsersDep,
    row: Annotated[int, Path(ge=0, le=2**63 - 1)],
) -> FileResponse:
    """JPEG of at most 160 pixels; `row` as in the examples of a concept."""
    path = dictionary.thumbnail(row)
    if not path.is_file():
        raise NotFound(f"Dictionary {dictionary.id!r} has no thumbnail of row {row}.")
    headers = {
        "Cache-Control": "private, max-age=3600",
        "ETag": tag_of(request, browsers.of(dictionary).version),
    }
    if has_current(request, headers["ETag"]):
        raise NotModified(headers)
    return FileResponse(path, media_type="image/jpeg", headers=headers)


@router.get("/{dictionary}/search", summary="Find concepts by text")
def search(
    dictionary: DictionaryDep,
    service: ServiceDep,
    text: Annotated[str, Query(min_length=1, max_length=200, examples=["striped shirt"])],
    limit: Annotated[int, Query(ge=1, le=500)] = 10,
) -> SearchAnswer:
    """Concepts whose directions are nearest to the text, by cosine."""
    if not text.strip():
        raise InvalidInput("The search text is blank; give a word or a short phrase.")
    with service.limiter.slot():
        found = dictionary.predictor.search(text, limit=limit)
    matches = [
        Match(concept=index, name=dictionary.catalogue.concept(index).name, score=score)
        for index, score in found
    ]
    return SearchAnswer(text=text, matches=matches)


def _weights(model: ServedModel, class_name: str | None, nec: int | None) -> np.ndarray | None:
    """Weights (c,) of a class, None where no class is asked for."""
    if class_name is None:
        return None
    row = model.probe(nec).weights[model.class_index(class_name)]
    return np.asarray(row.detach().cpu(), dtype=np.float64)


def _dictionary(model: ServedModel) -> DictionaryOut:
    catalogue = model.catalogue
    return DictionaryOut(
        id=model.id,
        num_concepts=len(catalogue),
        named=catalogue.named,
        unique_names=catalogue.unique_names,
    )


def _concept(model: ServedModel, index: int) -> dict[str, Any]:
    item = model.catalogue.concept(index)
    return {
        "concept": index,
        "name": item.name,
        "status": item.status,
        "score": finite(item.score),
        "margin": finite(item.margin),
        "group": item.group,
        "density": model.catalogue.statistic("density", index),
        "mean_code": model.catalogue.statistic("mean_code", index),
        "max_code": model.catalogue.statistic("max_code", index),
    }


def _example(model: ServedModel, example: Example) -> ExampleOut:
    return ExampleOut(
        rank=example.rank,
        item_id=example.item_id,
        row=example.row,
        code=example.code,
        thumbnail=model.thumbnail_address(example.row),
    )
