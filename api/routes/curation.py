"""Change the concepts of a decision or of a model, and see what was changed by whom."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.requests import ClientDisconnect

from api.curation import Curation
from api.errors import UploadAborted
from api.images import Field, Upload, check_pixels, decode_uploads, read_uploads_and
from api.routes.predictions import UPLOAD_PROBLEMS, By
from api.schemas import ImagePrediction, Problem
from api.schemas.curation import (
    ActorBody,
    AuditEntryOut,
    AuditList,
    AuditState,
    Change,
    ChangedOut,
    EditBody,
    EditList,
    EditOut,
    InterveneAnswer,
    InterveneBody,
    InterventionOut,
)
from api.service import ModelDep, Nec, PagingDep, ServiceDep, author_of
from dncbm.curation.operations import parse_operations
from dncbm.errors import Unavailable
from dncbm.probe.changes import MOST_CHANGES, CodeChange, parse_changes

router = APIRouter(prefix="/v1", tags=["curation"])

_CHANGES = Field("changes", InterveneBody, most_bytes=1 << 14, most_parts=6 * MOST_CHANGES)
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "changes"],
                    "properties": {
                        "image": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "One photo, or the field repeated for several.",
                        },
                        "changes": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": {
                                "type": "array",
                                "items": Change.model_json_schema(),
                            },
                            "description": "The list of changes as JSON text.",
                            "examples": ['[{"concept": "sneaker", "set": 0.0}]'],
                        },
                    },
                }
            },
            "application/json": {"schema": InterveneBody.model_json_schema()},
        },
    }
}
_EDIT: dict[str, Any] = {"x-dncbm-scope": "edit"}
_PROBLEM: dict[str, Any] = {"model": Problem, "content": {"application/problem+json": {}}}
_WITHOUT: dict[int | str, dict[str, Any]] = {
    503: _PROBLEM | {"description": "The service has no database, or it does not answer."}
}
_REFUSED = _WITHOUT | {409: _PROBLEM | {"description": "The edit is not in a state for this."}}

EditId = Annotated[int, Path(ge=1, lt=2**31, description="Number of the edit.")]


async def get_curation(service: ServiceDep) -> Curation:
    """Edits and audit log of this service.

    Raises:
        Unavailable: it was put together without a database.
    """
    if service.curation is None:
        raise Unavailable("This service keeps no edits: it was started without a database.")
    return service.curation


CurationDep = Annotated[Curation, Depends(get_curation)]


async def read_intervention(
    request: Request, service: ServiceDep
) -> tuple[list[Upload], tuple[CodeChange, ...]]:
    """Photos and changes of a request, under the limits of the service."""
    service.limiter.refuse_when_full()
    try:
        async with service.uploads.place():
            uploads, changes = await read_uploads_and(request, service.options, _CHANGES)
    except ClientDisconnect as error:
        raise UploadAborted from error
    return uploads, parse_changes(changes)


@router.post(
    "/models/{model}/intervene",
    summary="Change concepts and see the new decision",
    openapi_extra=_BODY,
    responses=UPLOAD_PROBLEMS,
)
def intervene(
    model: ModelDep,
    service: ServiceDep,
    asked: Annotated[tuple[list[Upload], tuple[CodeChange, ...]], Depends(read_intervention)],
    nec: Nec = None,
    top_contributions: Annotated[int, Query(ge=0, le=1000, description="Parts listed.")] = 5,
    top_classes: Annotated[int, Query(ge=1, le=1000, description="Classes listed.")] = 1,
    by: By = "concept",
) -> InterveneAnswer:
    """One entry per photo, in order; the model itself stays as it is."""
    uploads, changes = asked
    model.check_nec(nec)
    check_pixels(uploads, service.options)
    with service.limiter.slot():
        found = model.predictor.intervene(
            decode_uploads(uploads, service.options),
            changes,
            top_contributions=top_contributions,
            top_classes=top_classes,
            nec=nec,
            by=by,
        )
    service.metrics.count_images(model.id, len(found))
    return InterveneAnswer(
        model=model.id,
        interventions=[
            InterventionOut(
                image=upload.name,
                before=ImagePrediction.ranked(upload.name, list(item.before)),
                after=ImagePrediction.ranked(upload.name, list(item.after)),
                changed=[ChangedOut.of(one) for one in item.changed],
            )
            for upload, item in zip(uploads, found, strict=True)
        ],
    )


@router.post(
    "/models/{model}/edits",
    status_code=201,
    summary="Propose an edit",
    openapi_extra=_EDIT,
    responses=_WITHOUT,
)
def create_edit(
    model: ModelDep, curation: CurationDep, request: Request, body: EditBody
) -> EditOut:
    """A draft on top of the active edit; it changes nothing before it is activated."""
    operations = parse_operations([one.model_dump(by_alias=True) for one in body.operations])
    edit = curation.workbench(model).propose(
        operations, author=author_of(request, body.author), reason=body.reason
    )
    return EditOut.of(edit)


@router.get("/models/{model}/edits", summary="List the edits of a model", responses=_WITHOUT)
def list_edits(model: ModelDep, curation: CurationDep, paging: PagingDep) -> EditList:
    """All edits, newest first."""
    bench = curation.workbench(model)
    total, edits = curation.store.page(bench.model, limit=paging.limit, offset=paging.offset)
    return EditList(
        edits=[EditOut.of(edit) for edit in edits],
        **paging.bounds(total),  # type: ignore[arg-type]
    )


@router.get("/models/{model}/edits/{edit}", summary="Describe an edit", responses=_WITHOUT)
def describe_edit(model: ModelDep, curation: CurationDep, edit: EditId) -> EditOut:
    """An edit with what it costs, once it is evaluated."""
    return EditOut.of(curation.store.get(curation.workbench(model).model, edit))


@router.post(
    "/models/{model}/edits/{edit}/evaluate",
    summary="Measure what an edit costs",
    openapi_extra=_EDIT,
    responses=_REFUSED,
)
def evaluate_edit(
    model: ModelDep,
    curation: CurationDep,
    request: Request,
    edit: EditId,
    body: ActorBody | None = None,
) -> EditOut:
    """Accuracy before and after on the validation images; with a refit it takes a while."""
    author = _actor(request, body)
    with curation.measuring():
        return EditOut.of(curation.workbench(model).evaluate(edit, author=author))


@router.post(
    "/models/{model}/edits/{edit}/activate",
    summary="Serve an edit",
    openapi_extra=_EDIT,
    responses=_REFUSED,
)
def activate_edit(
    model: ModelDep,
    curation: CurationDep,
    request: Request,
    edit: EditId,
    body: ActorBody | None = None,
) -> EditOut:
    """From now on predictions are those of the edited model; it has to be evaluated before."""
    key = curation.workbench(model).model
    found = curation.store.activate(key, edit, author=_actor(request, body))
    curation.refresh(wait=True)
    return EditOut.of(found)


@router.post(
    "/models/{model}/edits/{edit}/revert",
    summary="Go back to the state before an edit",
    openapi_extra=_EDIT,
    responses=_REFUSED,
)
def revert_edit(
    model: ModelDep,
    curation: CurationDep,
    request: Request,
    edit: EditId,
    body: ActorBody | None = None,
) -> EditOut:
    """The parent of the active edit, or the model as it was made, is served again."""
    key = curation.workbench(model).model
    found = curation.store.revert(key, edit, author=_actor(request, body))
    curation.refresh(wait=True)
    return EditOut.of(found)


@router.get("/audit", summary="Who changed what", responses=_WITHOUT)
def list_audit(curation: CurationDep, paging: PagingDep) -> AuditList:
    """Every change, newest first."""
    total, entries = curation.store.audit.page(limit=paging.limit, offset=paging.offset)
    return AuditList(
        entries=[AuditEntryOut.of(entry) for entry in entries],
        **paging.bounds(total),  # type: ignore[arg-type]
    )


@router.get("/audit/verify", summary="Check the audit log", responses=_WITHOUT)
def verify_audit(curation: CurationDep) -> AuditState:
    """Compute all hashes again; tells the first entry that was tampered with."""
    found = curation.store.audit.verify()
    return AuditState(
        intact=found.intact, entries=found.entries, broken_at=found.broken_at, hash=found.hash
    )


def _actor(request: Request, body: ActorBody | None) -> str:
    """Who takes a step; a service without keys need not be told."""
    given = body.author if body is not None else None
    return author_of(request, given or "unknown")
