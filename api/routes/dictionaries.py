"""Browse and search the discovered concepts."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import FileResponse

from api.catalogue import Example, finite
from api.errors import NotFound
from api.registry import ServedModel
from api.schemas import (
    ConceptDetail,
    ConceptList,
    ConceptOut,
    DictionaryList,
    DictionaryOut,
    ExampleList,
    ExampleOut,
    Match,
    Order,
    ScoredName,
    SearchAnswer,
    Sort,
)
from api.service import DictionaryDep, PagingDep, ServiceDep
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


@router.get("/{dictionary}", summary="Describe a dictionary")
def describe_dictionary(dictionary: DictionaryDep) -> DictionaryOut:
    """How many concepts there are, and how many found a name."""
    return _dictionary(dictionary)


@router.get("/{dictionary}/concepts", summary="Browse the concepts")
def list_concepts(
    dictionary: DictionaryDep,
    paging: PagingDep,
    name: Annotated[
        str | None, Query(max_length=200, description="Part of the name, in any case.")
    ] = None,
    status: ConceptStatus | None = None,
    sort: Sort = "concept",
    order: Annotated[
        Order | None, Query(description="Left out: largest first, `concept` smallest first.")
    ] = None,
) -> ConceptList:
    """Concepts that match, sorted and in pages."""
    descending = (order or ("asc" if sort == "concept" else "desc")) == "desc"
    found = dictionary.catalogue.find(name=name, status=status, sort=sort, descending=descending)
    return ConceptList(
        concepts=[ConceptOut(**_concept(dictionary, index)) for index in found[paging.part]],
        **paging.bounds(len(found)),  # type: ignore[arg-type]
    )


@router.get("/{dictionary}/concepts/{concept}", summary="Describe a concept")
def describe_concept(dictionary: DictionaryDep, concept: Concept) -> ConceptDetail:
    """A concept with statistics and the names that came next."""
    item = dictionary.catalogue.concept(concept)
    return ConceptDetail(
        **_concept(dictionary, concept),
        alternatives=[ScoredName(name=name, score=score) for name, score in item.alternatives],
    )


@router.get("/{dictionary}/concepts/{concept}/examples", summary="Images of a concept")
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
    responses={200: {"content": {"image/jpeg": {}}}},
)
def thumbnail(
    dictionary: DictionaryDep, row: Annotated[int, Path(ge=0, le=2**63 - 1)]
) -> FileResponse:
    """JPEG of at most 160 pixels; `row` as in the examples of a concept."""
    path = dictionary.thumbnail(row)
    if not path.is_file():
        raise NotFound(f"Dictionary {dictionary.id!r} has no thumbnail of row {row}.")
    return FileResponse(
        path, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"}
    )


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
    address = f"/v1/dictionaries/{model.id}/thumbnails/{example.row}.jpg"
    return ExampleOut(
        rank=example.rank,
        item_id=example.item_id,
        row=example.row,
        code=example.code,
        thumbnail=address if model.thumbnail(example.row).is_file() else None,
    )
