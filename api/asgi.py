"""The only composition root of the service: environment in, application out.

    DNCBM_MODEL_DIR=out/clothing uvicorn --factory api.asgi:application

Nothing happens at import; `application` reads the settings and loads the models.
"""

import logging
from pathlib import Path

from fastapi import FastAPI
from pydantic import ValidationError

from api.main import create_app
from api.registry import ServedPredictor, open_registry
from api.settings import Settings
from dncbm.errors import InvalidInput, Unavailable
from dncbm.jobs.client import JobClient
from dncbm.jobs.places import Places

logger = logging.getLogger(__name__)


def application() -> FastAPI:
    """The service as the environment describes it.

    Raises:
        InvalidInput: a `DNCBM_*` variable is missing or wrong, or there is no model.
    """
    settings = read_settings()

    def load(path: Path) -> ServedPredictor:
        from dncbm.predictor import Predictor  # heavy: only when a model is really loaded

        return Predictor.load(path, device=settings.device)

    registry = open_registry(settings.model_dir, load)
    return create_app(registry, settings.options(), job_client=open_jobs(settings))


def open_jobs(settings: Settings) -> JobClient | None:
    """The jobs of this installation; None where its model root cannot be written.

    Raises:
        InvalidInput: the address of the database is none.
        Unavailable: a database that was named does not answer.
    """
    url = settings.database_url
    try:
        places = Places.of(
            settings.model_dir,
            state=settings.state_dir,
            database=url.get_secret_value() if url else None,
            data=settings.data_dir,
            network=settings.jobs_network,
        )
        return JobClient(places)
    except Unavailable as error:
        if url or settings.state_dir:
            raise
        logger.warning("No jobs: %s", error)  # a read-only root still serves predictions
        return None


def read_settings() -> Settings:
    """The settings in the environment.

    Raises:
        InvalidInput: a variable is missing or wrong; the message names it.
    """
    try:
        return Settings()  # type: ignore[call-arg]
    except ValidationError as error:
        lines = [f"DNCBM_{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors()]
        raise InvalidInput(
            f"The service cannot start. {'; '.join(lines)}. Set the environment variable, or use "
            "`dncbm serve DIR`."
        ) from error
