"""One command per method beside the pipeline: networks made, explained, and made small."""

from typing import Annotated

import typer

from pipelines import distill_cli, pretrain_cli
from pipelines.cli_parts import (
    AsJson,
    Data,
    Dataset,
    Device,
    Loss,
    Original,
    Out,
    SetTraining,
    Teacher,
    Verbose,
    commands,
    given,
    overridden,
    show,
)
from pipelines.console import configure_logging, progress_listener
from pipelines.guide_cli import guide
from pipelines.localise_cli import localise
from pipelines.workspace import Workspace


def add_to(app: typer.Typer) -> None:
    """Hang the commands into the command line."""
    app.command()(bcosify)
    app.command()(localise)
    app.command()(guide)
    distill_cli.add_distill(app)
    pretrain_cli.add_to(app)


def bcosify(
    out: Out,
    model: Original = "mini",
    data: Data = None,
    dataset: Dataset = None,
    teacher: Teacher = None,
    loss: Loss = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the photos; 10.")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates, in place of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Photos per update; 64.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    b: Annotated[float, typer.Option(help="Exponent B of the layers, at least 1.")] = 2.0,
    size: Annotated[int | None, typer.Option(help="Pixels; default: as the model.")] = None,
    overrides: SetTraining = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of split, order and crops.")] = 0,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """A trained network to its B-cos form, whose decisions are exact sums over pixels.

    Encoders learn from themselves, without labels; classifiers from the classes of the photos. An
    interrupted run resumes where it stopped.
    """
    configure_logging(verbose=verbose)
    tables = overridden(overrides, None, only=("training", "convert"))
    chosen = given(loss=loss, epochs=epochs, steps=steps, batch_size=batch_size, learning_rate=lr)
    choices = {
        "model": model, "teacher": teacher, "data": data, "dataset": dataset, "b": b, "size": size,
        "convert": tables.get("convert", {}), "training": tables.get("training", {}) | chosen,
        "device": device, "seed": seed,
    }  # fmt: skip
    with progress_listener() as progress:
        result = commands().bcosify(choices, Workspace(out), progress)
    show(result, as_json)
