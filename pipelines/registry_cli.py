"""Commands of the registry: what is there, what it is called, what changed, and moving models.

They work on the database of a model root; no service has to run.
"""

import getpass
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from dncbm.errors import InvalidInput, UnknownName
from pipelines.cli_parts import AsJson, Verbose, print_json, show
from pipelines.console import configure_logging, stdout

if TYPE_CHECKING:
    from dncbm.registry.records import Lineage
    from dncbm.registry.store import RegistryStore

Root = Annotated[
    Path,
    typer.Option(
        "--root", envvar="DNCBM_MODEL_DIR", help="The folder of the models.", show_default="."
    ),
]
Name = Annotated[str, typer.Argument(metavar="MODEL", help="Id, alias or directory of a model.")]
Author = Annotated[
    str, typer.Option(envvar="DNCBM_AUTHOR", help="Who changes it; default: the user.")
]
HERE = Path()


def add_commands(app: typer.Typer) -> None:
    """Hang the commands of the registry into the command line."""
    for name, command in _COMMANDS.items():
        app.command(name, rich_help_panel="Models")(command)


def models(root: Root = HERE, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """The models under a folder, with their aliases and their state."""
    configure_logging(verbose=verbose)
    store = _store(root)
    found = store.scan()
    aliases = store.aliases()
    listed: list[dict[str, Any]] = [
        {
            "id": model.id,
            "path": model.path,
            "state": model.state,
            "created": model.created and model.created.isoformat(),
            "fingerprint": model.cbm,
            "aliases": [alias.name for alias in aliases if alias.model == model.id],
        }
        for model in store.models()
    ]
    if as_json:
        print_json({"models": listed, "refused": dict(found.refused)})
        return
    rows = [
        [item["id"], ", ".join(item["aliases"]), item["state"], (item["created"] or "")[:10]]
        for item in listed
    ]
    _show_rows(("model", "aliases", "state", "made"), rows)
    for place, reason in found.refused.items():
        stdout.print(f"Not registered: {place}: {reason}")


def alias(
    name: Annotated[str, typer.Argument(metavar="NAME", help="For example production.")],
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Id or alias; left out: show the history."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept for ever.")] = "",
    author: Author = "",
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias.")] = False,
    root: Root = HERE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Let a name stand for a model from now on, or show what it stood for."""
    configure_logging(verbose=verbose)
    if remove and model is not None:
        raise InvalidInput("Give a MODEL or --remove, not both.")
    store = _store(root)
    if remove:
        store.delete_alias(name, author=author or _user(), reason=reason)
    elif model is not None:
        store.scan()
        store.set_alias(name, model, author=author or _user(), reason=reason)
    history: list[dict[str, Any]] = [
        {
            "model": change.model,
            "author": change.author,
            "reason": change.reason,
            "time": change.time.isoformat(),
        }
        for change in store.alias_history(name)
    ]
    if as_json:
        print_json({"alias": name, "model": history[0]["model"], "history": history})
        return
    rows = [
        [item["model"] or "(removed)", item["author"], item["reason"], item["time"][:16]]
        for item in history
    ]
    _show_rows(("model", "author", "reason", "time"), rows)


def lineage(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Id, alias or fingerprint of an artifact.")
    ],
    root: Root = HERE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """What a model was made from, down to the data and the encoder."""
    configure_logging(verbose=verbose)
    store = _store(root)
    store.scan()
    try:
        fingerprint = store.model(model).cbm
    except UnknownName:
        if len(model) != 64:
            raise
        fingerprint = model

    found = store.lineage(fingerprint)
    if as_json:
        print_json(_tree(found))
    else:
        _draw(found)


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Id, alias or directory, before.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Id, alias or directory, after.")],
    nec: Annotated[int | None, typer.Option(help="Compare the heads of this size.")] = None,
    min_cosine: Annotated[
        float, typer.Option(help="Directions less alike are other concepts.")
    ] = 0.7,
    root: Root = HERE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """What changed between two models: concepts, accuracy, classes and weights."""
    from pipelines.model_diff import compare, show_comparison

    configure_logging(verbose=verbose)
    found = compare(_directory(root, a), _directory(root, b), nec=nec, min_cosine=min_cosine)
    if as_json:
        print_json(found)
    else:
        show_comparison(found)


def export(
    model: Name,
    out: Annotated[str, typer.Option("--out", "-o", help="X.zip, a folder, or hf:OWNER/NAME.")],
    serving: Annotated[
        bool, typer.Option("--serving", help="Leave out what only further stages need.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody see a new repository of the hub.")
    ] = False,
    root: Root = HERE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """A model as one zip, one folder, or a repository of the Hugging Face hub."""
    from dncbm.registry.bundle import export_model
    from dncbm.registry.hub import PREFIX, push_model

    configure_logging(verbose=verbose)
    folder = _directory(root, model)
    if out.startswith(PREFIX):
        place = push_model(folder, out, private=not public, training=not serving)
    else:
        place = str(export_model(folder, out, training=not serving))
    show({"model": str(folder), "out": place, "next": f"dncbm import {out}"}, as_json)


def import_(
    source: Annotated[str, typer.Argument(metavar="X", help="X.zip, a folder, or hf:OWNER/NAME.")],
    name: Annotated[str | None, typer.Option(help="Of the model; default: that of X.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    root: Root = HERE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Put an exported model into the folder of the models, after checking all of it."""
    from dncbm.registry.hub import PREFIX, pull_model
    from dncbm.registry.unpack import import_model

    configure_logging(verbose=verbose)
    store = _store(root)
    if source.startswith(PREFIX):
        folder = pull_model(source, root, name=name, revision=revision)
    else:
        folder = import_model(source, root, name=name)
    model = store.register(folder)
    show(
        {"model": model.id, "path": str(folder), "fingerprint": model.cbm,
         "next": f"dncbm predict {folder} PHOTO"},
        as_json,
    )  # fmt: skip


_COMMANDS: dict[str, Callable[..., None]] = {
    "models": models,
    "alias": alias,
    "lineage": lineage,
    "diff": diff,
    "export": export,
    "import": import_,
}


def _store(root: Path) -> "RegistryStore":
    from dncbm.registry.place import open_store

    state = os.environ.get("DNCBM_STATE_DIR")
    url = os.environ.get("DNCBM_DATABASE_URL")
    return open_store(root, Path(state) if state else None, url)


def _directory(root: Path, name: str) -> Path:
    """A model directory by itself, or by its id or alias under `root`."""
    if (Path(name) / "cbm").is_dir():
        return Path(name)
    store = _store(root)
    store.scan()
    return store.directory(store.model(name))


def _tree(item: "Lineage") -> dict[str, Any]:
    artifact = item.artifact
    return {
        "role": item.role,
        "fingerprint": item.fingerprint,
        "kind": artifact.kind if artifact else None,
        "paths": list(artifact.paths) if artifact else [],
        "inputs": [_tree(part) for part in item.inputs],
        "more": item.more,
    }


def _draw(item: "Lineage", depth: int = 0) -> None:
    more = " (as above)" if item.more else ""
    place = f"  {item.artifact.paths[0]}" if item.artifact and item.artifact.paths else ""
    stdout.print(f"{'  ' * depth}{item.role} {item.fingerprint[:12]}{place}{more}")
    for part in item.inputs:
        _draw(part, depth + 1)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        return ""


def _show_rows(columns: tuple[str, ...], rows: list[list[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left")
    for row in rows:
        table.add_row(*row)
    stdout.print(table)
