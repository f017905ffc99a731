"""The only composition root of the service: environment in, application out.

    DNCBM_MODEL_DIR=out/clothing uvicorn --factory api.asgi:application

Nothing happens at import; `application` reads the settings and loads the models.
"""

from fastapi import FastAPI
from pydantic import ValidationError

from api.encoders import SharedEncoders
from api.main import create_app
from api.registry import open_registry
from api.settings import Settings
from dncbm.errors import InvalidInput


def application() -> FastAPI:
    """The service as the environment describes it.

    Raises:
        InvalidInput: a `DNCBM_*` variable is missing or wrong, or there is no model.
    """
    settings = read_settings()
    encoders = SharedEncoders(
        settings.device,
        backend=settings.backend,
        max_batch=settings.max_batch,
        wait_seconds=max(1.0, settings.wait_seconds),
    )
    return create_app(open_registry(settings.model_dir, encoders.load), settings.options())


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
