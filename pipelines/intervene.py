"""What a photo's class would be if some concepts had other codes, on the command line."""

import importlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dncbm.errors import InvalidInput
from pipelines.cli_parts import AsJson, Device, Edits, Model, Nec, Photos, print_json
from pipelines.console import stdout
from pipelines.targets import meant, numbers, say_meant


def register(app: typer.Typer) -> None:
    """Add the command `intervene`."""
    app.command()(intervene)


def intervene(
    model: Model,
    images: Photos,
    put: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="CONCEPT=CODE", help="Set a code, by index or name."),
    ] = None,
    scale: Annotated[
        list[str] | None, typer.Option(metavar="CONCEPT=FACTOR", help="Multiply a code.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(metavar="CONCEPT", help="Set a code to 0.")
    ] = None,
    top: Annotated[int, typer.Option(help="Contributions to list.")] = 5,
    nec: Nec = None,
    by: Annotated[
        str, typer.Option(help="concept, or name: concepts of one name are added up.")
    ] = "concept",
    device: Device = "auto",
    edits: Edits = True,
    as_json: AsJson = False,
) -> None:
    """The class of each photo before and after some of its concepts are changed.

    A name stands for all concepts that have it. The model itself stays as it is.
    """
    changes: list[dict[str, Any]] = [
        *(_change(text, "set") for text in put or ()),
        *(_change(text, "scale") for text in scale or ()),
        *({"concept": concept, "remove": True} for concept in numbers(remove)),
    ]
    if not changes:
        raise InvalidInput("No change was given. Give --set, --scale or --remove.")
    listing = {"top_contributions": top, "nec": nec, "by": by}
    result = intervened(model, images, changes, device=device, edits=edits, **listing)
    print_json(result) if as_json else show(result)


def _change(text: str, verb: str) -> dict[str, Any]:
    concept, equals, value = text.rpartition("=")
    try:
        number = float(value)
    except ValueError:
        equals = ""
    if not (equals and concept):
        raise InvalidInput(
            f"--{verb} {text!r} is not of the form CONCEPT=NUMBER, as in sneaker=0 or 17=2.5."
        )
    (named,) = numbers([concept])
    return {"concept": named, verb: number}


def intervened(
    model: Path,
    images: list[Path],
    changes: list[dict[str, Any]],
    *,
    device: str,
    edits: bool = True,
    **listing: Any,
) -> dict[str, Any]:
    """Both decisions about each photo, with the codes that were changed."""
    from dncbm.probe.changes import parse_changes
    from pipelines.edited import load_predictor
    from pipelines.serialise import prediction_dict

    commands = importlib.import_module("pipelines.commands")
    parsed = parse_changes(changes)
    paths = commands.photo_paths(images)
    predictor, edit = load_predictor(model, device=device, edits=edits)
    asked = meant(predictor.dictionary.names, [one.concept for one in parsed])
    found = []
    for path in paths:
        (item,) = predictor.intervene([commands.decoded(path)], parsed, **listing)
        found.append(
            {
                "image": str(path),
                "before": prediction_dict(item.before[0]),
                "after": prediction_dict(item.after[0]),
                "changed": [asdict(one) for one in item.changed],
            }
        )
    return {"edit": edit, "meant": asked, "interventions": found}


def show(result: Mapping[str, Any]) -> None:
    """Print the changed codes of each photo, then both decisions as sums."""
    commands = importlib.import_module("pipelines.commands")
    edited = importlib.import_module("pipelines.edited")
    edited.say_edit(result)
    say_meant(result["meant"])
    for item in result["interventions"]:
        for one in item["changed"]:
            stdout.print(
                f"{item['image']}: {one['name']} #{one['concept']}: "
                f"{one['code_before']:.3f} → {one['code_after']:.3f}"
            )
        for when in ("before", "after"):
            shown = item[when] | {"image": f"{when}, {item['image']}"}
            commands.show_predictions({"edit": None, "predictions": [shown]})
