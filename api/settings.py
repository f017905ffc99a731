"""Settings of the service: environment (`DNCBM_*`) and a TOML file, read by `api.configuration`."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

MEBIBYTE = 1 << 20

BackendName = Literal[
    "auto", "torch", "torch-graph", "torch-bf16", "onnx", "onnxruntime", "onnxruntime-int8",
    "openvino", "openvino-bf16",
]  # fmt: skip
_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
_RATE = re.compile(r"([1-9][0-9]{0,6})/(second|minute|hour)")
_ORIGIN = re.compile(r"\*|https?://[A-Za-z0-9.\[\]:-]+")
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds; all of them may come at once."""

    number: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """`60/minute` as a rate; raises ValueError with the rule."""
        found = _RATE.fullmatch(text.strip())
        if not found:
            raise ValueError("must be NUMBER/second, NUMBER/minute or NUMBER/hour, as in 60/minute")
        return cls(int(found[1]), _PERIODS[found[2]])


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
    state_dir: Path | None = None
    """Where the service keeps what it computed; None keeps it in memory."""
    api_key: str | None = None
    """When set, `/v1`, `/report` and `/metrics` ask for it in the header `X-API-Key`."""
    keys_file: Path | None = None
    """When set, its keys are asked for too, each with scopes (`dncbm.keys`)."""
    rate_limit: Rate | None = None
    """Requests of one key, or of one address without a key, before 429."""
    cors_origins: tuple[str, ...] = ()
    """Pages of these origins may call the service from a browser."""
    allowed_hosts: tuple[str, ...] = ()
    """When set, the Host header must be one of them (or local); `*.` stands for sub-domains."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    otel: bool = False
    """Whether requests and their steps are traced with OpenTelemetry."""


def _joined(value: Any) -> Any:
    """A list, as a file may have it, as the text that an environment has."""
    many = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return ",".join(value) if many else value


def split(text: str) -> tuple[str, ...]:
    """The parts of a text with commas."""
    return tuple(part for item in text.split(",") if (part := item.strip()))


def _every(pattern: re.Pattern[str], rule: str) -> AfterValidator:
    def check(text: str) -> str:
        for item in split(text):
            if not pattern.fullmatch(item):
                raise ValueError(f"{item!r} is not {rule}")
        return text

    return AfterValidator(check)


def _networks(text: str) -> str:
    for item in split(text):
        ipaddress.ip_network(item, strict=False)  # its ValueError says what is wrong
    return text


def _rate(text: str | None) -> str | None:
    if text is not None:
        Rate.parse(text)
    return text


def _database(value: SecretStr | None) -> SecretStr | None:
    schemes = ("sqlite:///", "postgresql://", "postgresql+psycopg://")
    if value is not None and not value.get_secret_value().startswith(schemes):
        raise ValueError("must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME")
    return value


_DEFAULT = ServiceOptions()


class Settings(BaseSettings):
    """A variable is the upper-case field after `DNCBM_`; in the file the field itself."""

    model_config = SettingsConfigDict(env_prefix="DNCBM_", protected_namespaces=(), frozen=True)

    model_dir: Path = Field(description="A model directory, or a folder that holds several.")
    state_dir: Path | None = Field(
        default=None, description="Where database and jobs are kept; default: MODEL_DIR/.dncbm."
    )
    database_url: Annotated[SecretStr | None, AfterValidator(_database)] = Field(
        default=None, description="sqlite:///FILE or postgresql://…; default: in the state folder."
    )
    data_dir: Path | None = Field(
        default=None, description="Folder of the photos that jobs may read; unset: none."
    )
    jobs_network: bool = Field(
        default=False, description="Whether jobs may fetch data sets and weights."
    )
    jobs_keep_failed_hours: float = Field(
        default=168.0, ge=0, lt=1_000_000,
        description="How long what a failed or cancelled job finished is kept for a retry.",
    )  # fmt: skip
    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port to listen on.")
    device: str = Field(default="auto", description="auto, cpu or cuda.")
    backend: BackendName = Field(default="torch", description="What computes embeddings.")
    max_batch: int = Field(
        default=32, ge=1, le=1024, description="Most images of several requests in one batch."
    )
    max_upload_bytes: int = Field(
        default=_DEFAULT.max_upload_bytes, ge=1, description="Largest request."
    )
    max_pixels: int = Field(
        default=_DEFAULT.max_pixels, ge=1, description="Pixels of all images of a request together."
    )
    max_images: int = Field(default=_DEFAULT.max_images, ge=1, description="Images per request.")
    concurrency: int = Field(
        default=_DEFAULT.concurrency, ge=1, le=16, description="Inference calls at a time."
    )
    waiting: int = Field(
        default=_DEFAULT.waiting, ge=0, le=256, description="Inference calls that may wait."
    )
    wait_seconds: float = Field(
        default=_DEFAULT.wait_seconds, ge=0, le=3600, description="Longest wait for a turn."
    )
    read_seconds: float = Field(
        default=_DEFAULT.read_seconds, gt=0, le=3600, description="Longest time to read an upload."
    )
    shutdown_seconds: float = Field(
        default=30.0, ge=0, le=3600, description="Longest wait for running requests at the end."
    )
    api_key: SecretStr | None = Field(
        default=None, min_length=1, description="One key that may do everything."
    )
    keys_file: Path | None = Field(
        default=None, description="Keys with scopes, made by `dncbm keys add`."
    )
    allow_open: bool = Field(
        default=False, description="Serve a public address although no key is asked for."
    )
    rate_limit: Annotated[str | None, AfterValidator(_rate)] = Field(
        default=None, description="Requests of one key or address, as in 60/minute; unset: no end."
    )
    trusted_proxies: Annotated[str, BeforeValidator(_joined), AfterValidator(_networks)] = Field(
        default="", description="Addresses or networks whose X-Forwarded-For is believed."
    )
    allowed_hosts: Annotated[
        str,
        BeforeValidator(_joined),
        _every(_HOST, "a host name without port"),
    ] = Field(default="", description="Values that the Host header may have; empty: any.")
    cors_origins: Annotated[
        str, BeforeValidator(_joined), _every(_ORIGIN, "* or an origin as in https://example.org")
    ] = Field(default="", description="Origins of pages that may call the service; empty: none.")
    log_format: Literal["plain", "json"] = Field(default="plain", description="Of log lines.")
    otel: bool = Field(default=False, description="Trace with OpenTelemetry (extra otel).")
    worker: bool = Field(
        default=True, description="Run jobs too, in a process beside (`dncbm serve` alone)."
    )
    worker_seconds: float | None = Field(
        default=None, gt=0, description="Not ready when no worker has shown itself for so long."
    )
    lazy: bool = Field(default=False, description="Load a model when it is first asked for.")
    drift: bool = Field(default=False, description="Watch how concepts change in live traffic.")
    drift_seconds: float = Field(
        default=30.0, gt=0, le=86400, description="Between two writes of what was seen."
    )

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
            state_dir=self.state,
            api_key=self.api_key.get_secret_value() if self.api_key else None,
            keys_file=self.keys_file,
            rate_limit=Rate.parse(self.rate_limit) if self.rate_limit else None,
            cors_origins=split(self.cors_origins),
            allowed_hosts=split(self.allowed_hosts),
            trusted_proxies=split(self.trusted_proxies),
            otel=self.otel,
        )

    @property
    def state(self) -> Path:
        """The folder of database and jobs."""
        return self.state_dir or self.model_dir / ".dncbm"

    @property
    def database(self) -> str:
        """Address of the database, with its password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.state.resolve() / 'dncbm.sqlite'}"

    @property
    def is_open(self) -> bool:
        """Whether no key is asked for."""
        return self.api_key is None and self.keys_file is None

    @property
    def is_public(self) -> bool:
        """Whether others than this machine can reach the address; unknown names count as such."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True
