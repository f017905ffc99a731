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
from dncbm.registry.place import open_store
from dncbm.registry.store import RegistryStore

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

    registry = open_registry(
        settings.model_dir, load, store=_open_store(settings), lazy=settings.lazy
    )
    return create_app(registry, settings.options())


def _open_store(settings: Settings) -> RegistryStore | None:
    """The registry; None where models lie in a place that cannot be written, unless one is set."""
    url = settings.database_url.get_secret_value() if settings.database_url else None
    try:
        return open_store(settings.model_dir, settings.state_dir, url)
    except Unavailable as error:
        if url is not None or settings.state_dir is not None:
            raise
        logger.warning("The service keeps no registry: %s", error)
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
