"""The commands of the service: `dncbm serve`, and `dncbm keys` for its API keys."""

import importlib
import os
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dncbm.errors import ArtifactError, InvalidInput
from dncbm.keys import Key, add_key, read_keys, revoke_key
from pipelines.cli_parts import AsJson, Verbose, given, print_json
from pipelines.console import stdout

KeysFile = Annotated[
    Path | None, typer.Option("--file", help="Keys file; default: $DNCBM_KEYS_FILE.")
]
keys_app = typer.Typer(
    name="keys",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="API keys of the service, each with scopes; the file holds their hashes alone.",
)


def serve(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", help="Model directory; default: $DNCBM_MODEL_DIR."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 8000.", min=1, max=65535)
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto.")] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="What embeds photos: torch, onnx, openvino, or auto for the fastest."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings in TOML.")] = None,
    allow_open: Annotated[
        bool, typer.Option("--allow-open", help="Serve a public address without keys.")
    ] = False,
    worker: Annotated[
        bool | None,
        typer.Option("--worker/--no-worker", help="Also run jobs, in a process beside; worker."),
    ] = None,
    print_settings: Annotated[
        bool, typer.Option("--print-settings", help="Show the settings in force and stop.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Serve a model directory (or a folder of several) over HTTP.

    Settings are DNCBM_* variables or keys of a TOML file; see docs/operations.md.
    """
    if model is not None and not model.is_dir():
        raise ArtifactError(f"{model} is not a directory. Give the --out of `dncbm quickstart`.")
    options = given(
        model_dir=model and model.resolve(),
        host=host,
        port=port,
        device=_device(device),
        backend=backend,
        allow_open=allow_open or None,
        worker=worker,
    )
    # by name, since the command line and the service do not import each other
    importlib.import_module("api.run").serve(
        config,
        options,
        say=lambda line: stdout.print(line, soft_wrap=True),
        beside=_worker_beside,
        print_settings=print_settings,
        verbose=verbose,
    )


def _worker_beside(settings: Any) -> AbstractContextManager[object]:
    """A worker with the settings of the service; none for a single model, which has no root."""
    from pipelines.worker import kept_running

    if not settings.worker or (settings.model_dir / "cbm").is_dir():
        return nullcontext()
    values = {
        "DNCBM_STATE_DIR": settings.state,
        "DNCBM_DATABASE_URL": settings.database,
        "DNCBM_DATA_DIR": settings.data_dir,
        "DNCBM_JOBS_NETWORK": int(settings.jobs_network),
        "DNCBM_JOBS_KEEP_FAILED_HOURS": settings.jobs_keep_failed_hours,
    }
    named = {name: str(value) for name, value in values.items() if value is not None}
    return kept_running(settings.model_dir.resolve(), named)


def _device(name: str | None) -> str | None:
    """An environment or a file that says otherwise than `auto` stays in force."""
    if name is None or name == "auto":
        return None
    from dncbm.training.devices import resolve_device

    return resolve_device(name)


@keys_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Who it is for; seen in logs and audits.")],
    scope: Annotated[
        list[str], typer.Option(help="read, predict, edit or admin; each includes those before.")
    ],
    expires: Annotated[
        datetime | None, typer.Option(help="Last moment (UTC), as in 2027-01-31.")
    ] = None,
    file: KeysFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once; only its hash is kept."""
    path = _path(file)
    end = expires.replace(tzinfo=UTC) if expires else None
    key, text = add_key(path, name, scope, end)
    if as_json:
        print_json(_shown(key) | {"key": text})
        return
    stdout.print(f"Key {name!r} ({', '.join(key.scopes)}), shown this once:")
    stdout.print(text, soft_wrap=True)


@keys_app.command("list")
def list_(file: KeysFile = None, as_json: AsJson = False) -> None:
    """Names, scopes and ends of the keys."""
    keys = read_keys(_path(file))
    if as_json:
        print_json({"keys": [_shown(key) for key in keys]})
        return
    for key in keys:
        end = f", until {key.expires.isoformat()}" if key.expires else ""
        past = " (past)" if key.is_expired(datetime.now(UTC)) else ""
        stdout.print(f"{key.name}: {', '.join(key.scopes)}{end}{past}", soft_wrap=True)
    if not keys:
        stdout.print("No keys.")


@keys_app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="As in `dncbm keys list`.")], file: KeysFile = None
) -> None:
    """Remove a key; a running service refuses it from then on."""
    key = revoke_key(_path(file), name)
    stdout.print(f"Revoked {key.name!r}.")


def _path(file: Path | None) -> Path:
    text = os.environ.get("DNCBM_KEYS_FILE")
    if file is None and not text:
        raise InvalidInput("Which keys file? Give --file FILE, or set DNCBM_KEYS_FILE.")
    return file or Path(str(text))


def _shown(key: Key) -> dict[str, object]:
    end = key.expires.isoformat() if key.expires else None
    return {"name": key.name, "scopes": list(key.scopes), "expires": end}
