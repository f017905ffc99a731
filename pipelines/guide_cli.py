"""`dncbm guide`: train a network to decide for reasons that lie in boxes or masks."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pipelines.cli_parts import (
    AsJson,
    Data,
    Dataset,
    Device,
    Verbose,
    given,
    overridden,
    print_json,
)
from pipelines.console import configure_logging, progress_listener, stdout
from pipelines.recipes import Recipe, located, located_network
from pipelines.workspace import Workspace

Many = list[str] | None


def guide(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory to write.")],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="torchvision:NAME[@FILE], timm:NAME[@FILE], scratch:NAME, bcos:DIR, guided:DIR, "
            "or a model directory (with --concept or --forbid).",
        ),
    ],
    data: Data = None,
    dataset: Dataset = None,
    annotations: Annotated[
        str | None, typer.Option(help="Boxes or masks; default: beside the photos.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="voc, coco, yolo, masks, tiny-imagenet or cub.")
    ] = None,
    task: Annotated[
        str, typer.Option(help="single, multi (classes of the annotations), or auto.")
    ] = "auto",
    loss: Annotated[str | None, typer.Option(help="energy, l1, ppce or rrr.")] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Of the guidance; several are tried. Default: 1."),
    ] = None,
    attribution: Annotated[
        str | None, typer.Option(help="A differentiable method; default: bcos or input_x_gradient.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="input, mid1, mid2, mid3, final, or a module's name.")
    ] = None,
    every: Annotated[int | None, typer.Option(help="Guide every so many steps; 1.")] = None,
    guided: Annotated[Many, typer.Option(help="A class to guide; default: all.")] = None,
    relabel: Annotated[
        bool, typer.Option("--relabel", help="All boxes of a photo are of its class.")
    ] = False,
    kind: Annotated[str, typer.Option(help="boxes or segments.")] = "boxes",
    fraction: Annotated[
        float, typer.Option(help="Share of the annotated training photos to use.")
    ] = 1.0,
    dilation: Annotated[float, typer.Option(help="Share by which boxes grow in training.")] = 0.0,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Share of classification that may be lost; default: 0.005, or one "
            "standard error where validation photos are few."
        ),
    ] = None,
    outside: Annotated[
        bool, typer.Option("--outside", help="Attribution should be outside: for backgrounds.")
    ] = False,
    crops: Annotated[bool, typer.Option(help="Random crops, or whole photos.")] = True,
    size: Annotated[int | None, typer.Option(help="Pixels; default: as the model.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the photos; 10.")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates, in place of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Photos per update; 64.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate; 1e-4.")] = None,
    concept: Annotated[
        Many, typer.Option(help="Of a model directory: CONCEPT=LABEL, in whose boxes it lies.")
    ] = None,
    forbid: Annotated[Many, typer.Option(help="A concept that no decision may use.")] = None,
    overrides: Annotated[
        Many,
        typer.Option(
            "--set",
            help="A field of training or (scratch:NAME) architecture, e.g. training.targets=all.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of split, order, crops and targets.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Train a network so that what speaks for a class lies in the boxes of that class.

    The best state is chosen on validation photos: the largest share of attribution inside, with F1
    or accuracy at most `--tolerance` below the best state (the one before guidance is among them).
    An interrupted run resumes.
    """
    configure_logging(verbose=verbose)
    here = Path.cwd()
    photos = Recipe(data=data, dataset=dataset).located(here)
    tables = overridden(overrides, None, only=("training", "architecture"))
    training = tables.get("training", {}) | given(
        loss=loss, attribution=attribution, layer=layer, every=every, epochs=epochs, steps=steps,
        batch_size=batch_size, learning_rate=lr, side="outside" if outside else None,
    )  # fmt: skip
    choices: dict[str, Any] = {
        "model": _located(model, here), "data": photos.data, "dataset": photos.dataset,
        "annotations": annotations and located(annotations, here), "format": format, "task": task,
        "guided": guided or [], "relabel": relabel, "kind": kind, "fraction": fraction,
        "dilation": dilation, "tolerance": tolerance, "weights": weight or [1.0], "crops": crops,
        "size": size,
        "concepts": _pairs(concept or []), "forbid": forbid or [], "training": training,
        "architecture": tables.get("architecture", {}),
        "seed": seed, "device": device,
    }  # fmt: skip
    from dncbm.guidance.recipe import GuideRecipe
    from pipelines.guide import guide_stage

    with progress_listener() as progress:
        result = guide_stage(GuideRecipe.of(choices), Workspace(out), progress)
    if as_json:
        print_json(result)
    else:
        _show(result)


def _located(model: str, here: Path) -> str:
    """A model directory by its own path; networks as elsewhere."""
    return located(model, here) if (here / model).is_dir() else located_network(model, here)


def _pairs(assignments: list[str]) -> dict[str, str]:
    """`bird=waterbird` as a concept and the label of its boxes; a name alone is both."""
    parts = (text.partition("=") for text in assignments)
    return {name: label or name for name, _, label in parts}


def _show(result: dict[str, Any]) -> None:
    """What was kept on validation, and the test before and after."""
    rows = result["candidates"]
    table = Table(title="Validation")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    stdout.print(table)
    table = Table(title="Test")
    for name in ("", "before", "after"):
        table.add_column(name, justify="right" if name else "left")
    for name, value in result["after"].items():
        table.add_row(name, _cell(result["before"].get(name)), _cell(value))
    stdout.print(table)
    stdout.print(result["guided"])


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "x" if value else ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
