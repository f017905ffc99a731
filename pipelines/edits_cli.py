"""Edits of a finished model on the command line: propose and measure, activate, revert, audit."""

import getpass
import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from dncbm.errors import InvalidInput
from pipelines import intervene
from pipelines.cli_parts import AsJson, Model, Verbose, print_json
from pipelines.console import configure_logging
from pipelines.targets import numbers

Author = Annotated[str | None, typer.Option(help="Who does it; default: your user name.")]


def register(app: typer.Typer) -> None:
    """Add the commands `intervene`, `edit`, `edits` and `audit`."""
    intervene.register(app)
    app.command()(edit)
    app.command()(edits)
    app.command()(audit)


def edit(
    model: Model,
    remove: Annotated[
        list[str] | None,
        typer.Option(metavar="CONCEPT", help="Let no class use it."),
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option(metavar="CONCEPT=NAME", help="Name it otherwise.")
    ] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(metavar="CONCEPT,CONCEPT=NAME", help="Count concepts as one."),
    ] = None,
    block: Annotated[
        list[str] | None, typer.Option(metavar="CONCEPT", help="Hide its name.")
    ] = None,
    set_weight: Annotated[
        list[str] | None, typer.Option(metavar="CLASS:CONCEPT=WEIGHT", help="Set a weight.")
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit the probe again without what is removed.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    author: Author = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Propose a change of a model on top of its active edit, and measure what it costs.

    Nothing that is served changes before `dncbm edits MODEL --activate ID`.
    """
    configure_logging(verbose=verbose)
    operations = [
        *({"op": "remove", "concept": concept} for concept in numbers(remove or [])),
        *(_named("rename", text) for text in rename or ()),
        *(_merged(text) for text in merge or ()),
        *({"op": "block", "concept": concept} for concept in numbers(block or [])),
        *([{"op": "refit"}] if refit else []),
        *(_weighted(text) for text in set_weight or ()),
    ]
    if not operations:
        raise InvalidInput(
            "No change was given. Give --remove, --rename, --merge, --block, --set-weight or "
            "--refit."
        )
    result = _commands().propose(model, operations, author=_author(author), reason=reason)
    print_json(result) if as_json else _commands().show_edit(result)


def edits(
    model: Model,
    activate: Annotated[int | None, typer.Option(help="Serve this edit from now on.")] = None,
    revert: Annotated[
        int | None, typer.Option(help="Go back to the state before this edit.")
    ] = None,
    author: Author = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List the edits of a model, activate one, or revert the active one."""
    configure_logging(verbose=verbose)
    if activate is not None and revert is not None:
        raise InvalidInput("--activate and --revert exclude each other. Give one of them.")
    if activate is not None:
        result = _commands().step(model, "activate", activate, author=_author(author))
    elif revert is not None:
        result = _commands().step(model, "revert", revert, author=_author(author))
    else:
        result = _commands().listed(model)
    print_json(result) if as_json else _commands().show_edits(result)


def audit(
    model: Annotated[
        Path, typer.Argument(metavar="[MODEL]", help="Model directory, or a folder of several.")
    ] = Path("."),
    verify: Annotated[
        bool, typer.Option("--verify", help="Check that nobody has tampered with it.")
    ] = False,
    limit: Annotated[int, typer.Option(help="Entries to list, newest first.", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """Who changed what: the audit log of models; --verify computes its chain of hashes again."""
    result = _commands().verified(model) if verify else _commands().audited(model, limit)
    print_json(result) if as_json else _commands().show_audit(result)


def _commands() -> Any:
    """What the commands do, imported when one runs: `dncbm --help` need not load torch."""
    return importlib.import_module("pipelines.edits")


def _author(given: str | None) -> str:
    if given is not None:
        return given
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "unknown"


def _named(op: str, text: str) -> dict[str, Any]:
    concept, equals, name = text.partition("=")
    if not equals:
        raise InvalidInput(f"--{op} {text!r} is not of the form CONCEPT=NAME, as in 17=trainer.")
    return {"op": op, "concept": _integer(concept, f"--{op} {text!r}"), "name": name}


def _merged(text: str) -> dict[str, Any]:
    concepts, equals, name = text.partition("=")
    if not equals:
        raise InvalidInput(
            f"--merge {text!r} is not of the form CONCEPT,CONCEPT=NAME, as in 17,56=lace."
        )
    numbers = [_integer(item, f"--merge {text!r}") for item in concepts.split(",")]
    return {"op": "merge", "concepts": numbers, "name": name}


def _weighted(text: str) -> dict[str, Any]:
    place, equals, weight = text.rpartition("=")
    class_name, colon, concept = place.rpartition(":")
    try:
        number = float(weight)
    except ValueError:
        equals = ""
    if not (equals and colon):
        raise InvalidInput(
            f"--set-weight {text!r} is not of the form CLASS:CONCEPT=WEIGHT, as in Shoes:17=0.5."
        )
    index = _integer(concept, f"--set-weight {text!r}")
    return {"op": "set_weight", "class": class_name, "concept": index, "weight": number}


def _integer(text: str, where: str) -> int:
    if not (text.strip().isascii() and text.strip().isdigit()):
        raise InvalidInput(f"{where}: {text!r} is not the index of a concept, such as 17.")
    return int(text)
