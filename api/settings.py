"""Settings of the service, read from the environment (`DNCBM_*`) by `api.asgi` only."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceOptions:
    """What `create_app` needs to know, as plain values."""

    max_upload_bytes: int = 20 * MEBIBYTE
    """Largest request body; also the largest single image."""
    max_pixels: int = 50_000_000
    """Most pixels (width times height) of all images of a request together."""
    max_images: int = 32
    """Most images in one request."""
    concurrency: int = 2
    """Calls that decode or explain at the same time."""
    waiting: int = 32
    """Calls that may wait for a turn, or for the encoder; more are answered 503 at once."""
    wait_seconds: float = 10.0
    """Longest wait for a turn before 503."""
    read_seconds: float = 60.0
    """Longest time to read an upload before 408; at most `concurrency` + `waiting` are read at a
    time, more are answered 503 at once."""
    api_key: str | None = None
    """When set, `/v1`, `/report` and `/metrics` ask for it in the header `X-API-Key`."""


class Settings(BaseSettings):
    """Environment variables of the service; a variable is the upper-case field after `DNCBM_`."""

    model_config = SettingsConfigDict(env_prefix="DNCBM_", protected_namespaces=(), frozen=True)

    model_dir: Path = Field(description="A model directory, or a folder that holds several.")
    device: str = Field(default="auto", description="auto, cpu or cuda.")
    backend: str = Field(default="torch", description="What embeds photos; auto measures.")
    max_batch: int = Field(default=32, ge=1, le=1024, description="Images of one encoder pass.")
    state_dir: Path | None = Field(default=None, description="Default: .dncbm in the model dir.")
    database_url: SecretStr | None = Field(default=None, min_length=1)
    drift: bool = Field(default=False, description="Compare live codes with the training data.")
    drift_seconds: float = Field(default=30.0, gt=0, le=86400)
    max_upload_bytes: int = Field(default=ServiceOptions().max_upload_bytes, ge=1)
    max_pixels: int = Field(default=ServiceOptions().max_pixels, ge=1)
    max_images: int = Field(default=ServiceOptions().max_images, ge=1)
    concurrency: int = Field(default=ServiceOptions().concurrency, ge=1, le=16)
    waiting: int = Field(default=ServiceOptions().waiting, ge=0, le=256)
    wait_seconds: float = Field(default=ServiceOptions().wait_seconds, ge=0, le=3600)
    read_seconds: float = Field(default=ServiceOptions().read_seconds, gt=0, le=3600)
    api_key: SecretStr | None = Field(default=None, min_length=1)

    def options(self) -> ServiceOptions:
        """The part of the settings that the application itself uses."""
        return ServiceOptions(
            max_upload_bytes=self.max_upload_bytes,
            max_pixels=self.max_pixels,
            max_images=self.max_images,
            concurrency=self.concurrency,
            waiting=self.waiting,
            wait_seconds=self.wait_seconds,
            read_seconds=self.read_seconds,
            api_key=self.api_key.get_secret_value() if self.api_key else None,
        )
