"""The only composition root of the service: settings in, application out.

    DNCBM_MODEL_DIR=out/clothing uvicorn --factory --no-proxy-headers api.asgi:application

Nothing happens at import; `application` reads the settings and loads the models. `dncbm serve`
does the same by `api.run`, which also knows the address it listens on and ends gracefully. Under
another server the address is not known here: set DNCBM_HOST to it, so that a public address
without keys is refused.
"""

import logging
from pathlib import Path

from fastapi import FastAPI

from api.allocator import limit_arenas
from api.configuration import load_settings
from api.curation import Curation
from api.drift import DriftWatch
from api.encoders import SharedEncoders
from api.logs import configure_logging
from api.main import create_app
from api.readiness import Check, database_answers, folder_writable, worker_alive
from api.registry import open_registry
from api.settings import Settings
from api.tracing import export_spans
from dncbm.curation.store import CurationStore
from dncbm.database import Database
from dncbm.errors import Unavailable
from dncbm.jobs.client import JobClient
from dncbm.jobs.places import Places
from dncbm.registry.store import RegistryStore

logger = logging.getLogger(__name__)


def application() -> FastAPI:
    """The service as environment and settings file describe it.

    Raises:
        InvalidInput: a setting is missing or wrong, or there is no model.
        Unavailable: the database does not answer, or the state folder cannot be written.
    """
    loaded = load_settings()
    configure_logging(loaded.settings.log_format)
    for warning in loaded.warnings:
        logger.warning(warning)
    return assemble(loaded.settings)


def assemble(settings: Settings) -> FastAPI:
    """The service that these settings describe; raises like `application`."""
    limit_arenas()
    if settings.otel:
        export_spans()
    encoders = SharedEncoders(
        settings.device,
        backend=settings.backend,
        max_batch=settings.max_batch,
        wait_seconds=max(1.0, settings.wait_seconds),
    )
    database = open_database(settings)
    if database is None:
        _refuse_without_state(settings)
        return create_app(open_registry(settings.model_dir, encoders.load), settings.options())
    drift = DriftWatch(database, settings.drift_seconds) if settings.drift else None
    registry = open_registry(
        settings.model_dir,
        drift.watching(encoders.load) if drift else encoders.load,
        store=RegistryStore(database, settings.model_dir),
        lazy=settings.lazy,
    )
    registry.when_gone(lambda models: encoders.retain([model.predictor for model in models]))
    return create_app(
        registry,
        settings.options(),
        checks=_checks(settings, database),
        curation=Curation(CurationStore(database), registry, settings.state),
        jobs=JobClient(places_of(settings)),
        drift=drift,
    )


def _refuse_without_state(settings: Settings) -> None:
    """Refuse what could not do its work, rather than go on without it."""
    kept = {"drift": "what live concepts look like", "lazy": "which models there are"}
    for name, what in kept.items():
        if getattr(settings, name):
            raise Unavailable(
                f"DNCBM_{name.upper()} needs the state folder, where it is kept {what}, and "
                f"{settings.state} cannot be written. Set DNCBM_STATE_DIR to a folder that can be, "
                f"or unset DNCBM_{name.upper()}."
            )


def places_of(settings: Settings) -> Places:
    """Where jobs read and write."""
    return Places.of(
        settings.model_dir,
        state=settings.state,
        database=settings.database,
        data=settings.data_dir,
        network=settings.jobs_network,
        keep_failed_hours=settings.jobs_keep_failed_hours,
    )


def open_database(settings: Settings) -> Database | None:
    """The database; None where models lie in a place that cannot be written, unless one is set.

    Raises:
        Unavailable: it does not answer, or the state folder that was set cannot be made.
    """
    try:
        _make_state(settings.state)
        return Database(settings.database)
    except Unavailable as error:
        if settings.state_dir is not None or settings.database_url is not None:
            raise
        logger.warning("The service keeps no state: %s", error)
        return None


def _make_state(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"The state folder {folder} cannot be made: {error.strerror}. Set DNCBM_STATE_DIR to a "
            "folder that can be written."
        ) from error


def _checks(settings: Settings, database: Database | None) -> dict[str, Check]:
    checks: dict[str, Check] = {}
    if database is not None:
        checks["database"] = database_answers(database)
        checks["state"] = folder_writable(settings.state)
    if settings.worker_seconds is not None:
        checks["worker"] = worker_alive(settings.state, settings.worker_seconds)
    return checks
