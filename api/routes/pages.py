"""What a browser sees: the page, the description of the API, the report."""

import re
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from api.errors import NotFound
from api.registry import ServedModel
from api.service import ModelDep, ServiceDep

router = APIRouter(include_in_schema=False)
report_router = APIRouter(include_in_schema=False)

_WEB = Path(__file__).parents[1] / "web"
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_ASSETS = {
    path.relative_to(_WEB).as_posix(): _KINDS[path.suffix]
    for path in sorted(_WEB.rglob("*"))
    if path.suffix in _KINDS
}
"""Style, scripts and icon, with their types; listed once, so that no request names a path."""
VIEWS = ("Decide", "Concepts", "Classes", "Map", "Jobs", "Drift", "Models")
_PARAMETER = re.compile(r"\{[^}]*\}")
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)

_templates = Environment(
    loader=FileSystemLoader(_WEB),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _page(template: str, **values: Any) -> HTMLResponse:
    text = _templates.get_template(template).render(**values)
    return HTMLResponse(text, headers={"Content-Security-Policy": _PAGE_POLICY})


@router.get("/")
def index(request: Request, service: ServiceDep) -> HTMLResponse:
    """The shell of the page; its scripts draw the views from the answers of the API."""
    models = service.registry.models
    return _page(
        "index.html",
        models=models,
        views=VIEWS,
        routes=_routes(request.app.openapi()),
        reports=[model.id for model in models if model.report.is_file()],
        needs_key=service.keys.is_asked,
        base=str(request.base_url).rstrip("/"),
        max_mebibytes=service.options.max_upload_bytes / (1 << 20),
    )


def _routes(document: dict[str, Any]) -> list[str]:
    """What the service offers, as `GET /v1/models/{}/drift`: the page hides what is not there."""
    return [
        f"{method.upper()} {_PARAMETER.sub('{}', path)}"
        for path, operations in document["paths"].items()
        for method in operations
        if path.startswith("/v1/")
    ]


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    """The API for people, made from the OpenAPI document; loads nothing from elsewhere."""
    document = request.app.openapi()
    groups: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            groups[operation["tags"][0]].append(
                operation | {"method": method.upper(), "path": path}
            )
    return _page(
        "docs.html",
        info=document["info"],
        tags=document["tags"],
        groups=groups,
        base=str(request.base_url).rstrip("/"),
    )


@router.get("/web/{name:path}")
def asset(name: str) -> FileResponse:
    """Style and scripts of the page; the names are a fixed list."""
    if name not in _ASSETS:
        raise NotFound(f"There is no file {name[:100]!r} here.")
    # Asked for anew each time, so that scripts of two versions never meet in one page.
    headers = {"Cache-Control": "no-cache"}
    return FileResponse(_WEB / name, media_type=_ASSETS[name], headers=headers)


@report_router.get("/report")
@report_router.get("/report/")
def report(service: ServiceDep) -> FileResponse:
    """The report of the first model that has one."""
    found = [model for model in service.registry.models if model.report.is_file()]
    if not found:
        raise NotFound("No served model has a report. `dncbm report DIR` makes one.")
    return _report_file(found[0])


@report_router.get("/report/{model}")
def model_report(model: ModelDep) -> FileResponse:
    """The report of one model."""
    if not model.report.is_file():
        raise NotFound(f"Model {model.id!r} has no report. `dncbm report DIR` makes one.")
    return _report_file(model)


def _report_file(model: ServedModel) -> FileResponse:
    headers = {"Content-Security-Policy": _REPORT_POLICY, "Cache-Control": "no-cache"}
    return FileResponse(model.report, media_type="text/html", headers=headers)
