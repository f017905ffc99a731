"""The only composition root of the service: environment in, application out.

    DNCBM_MODEL_DIR=out/clothing uvicorn --factory api.asgi:application

Nothing happens at import; `application` reads the settings and loads the models.
"""

from fastapi import FastAPI
from pydantic import ValidationError

from api.drift import DATABASE_FILE, DriftWatch
from api.encoders import SharedEncoders
from api.main import create_app
from api.registry import open_registry
from api.settings import Settings
from dncbm.database import Database
from dncbm.errors import InvalidInput, Unavailable


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
    drift = _open_drift(settings) if settings.drift else None
    load = drift.watching(encoders.load) if drift else encoders.load
    return create_app(open_registry(settings.model_dir, load), settings.options(), drift=drift)


def _open_drift(settings: Settings) -> DriftWatch:
    state = settings.state_dir or settings.model_dir / ".dncbm"
    url = settings.database_url
    if url is None:
        try:
            state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"The folder {state} cannot be made: {error.strerror}. Set DNCBM_STATE_DIR to one "
                "that can be written, or unset DNCBM_DRIFT."
            ) from error
    database = Database(url.get_secret_value()) if url else Database.of_file(state / DATABASE_FILE)
    return DriftWatch(database, settings.drift_seconds)


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
