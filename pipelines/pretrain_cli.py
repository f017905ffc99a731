"""`dncbm pretrain`: an encoder for photos that no published one knows."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli_parts import (
    AsJson,
    Data,
    Dataset,
    Device,
    Out,
    Verbose,
    given,
    overridden,
    show,
)
from pipelines.console import configure_logging, progress_listener
from pipelines.workspace import Workspace

TABLES = ("training", "network")


def pretrain(
    out: Out,
    data: Data = None,
    dataset: Dataset = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Images alone: standard_resnet18 (the default), another network of ours, "
            "timm:NAME, torchvision:NAME, or an encoder to go on with. With captions: an encoder "
            "(mini) or scratch:ARCHITECTURE."
        ),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="nt-xent (images alone), clip or siglip (with captions).")
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option(
            help="0.2, cosine:LOW:HIGH[:period=N][:phase=P], linear:A:B, random:LOW:HIGH, "
            "learnable:A or swing:ALPHA; N in updates, or as 2epochs."
        ),
    ] = None,
    captions: Annotated[
        str | None, typer.Option(help="List of captions; default: those beside the photos.")
    ] = None,
    long_tail: Annotated[
        float | None,
        typer.Option(help="Train on an exponential long tail of this ratio, such as 0.01."),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the photos; 10.")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates, in place of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Photos per update; 128.")] = None,
    chunk_size: Annotated[
        int | None, typer.Option(help="Photos in memory at once, for large batches.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels; 96, or as the model.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of training or network, e.g. training.clusters=50."),
    ] = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of split, order, views and weights.")] = 0,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Train an encoder by contrast, on photos alone or with captions; `dncbm embed` takes it.

    The temperature may be a schedule, for rare classes in long trainings. An interrupted run
    resumes where it stopped.
    """
    configure_logging(verbose=verbose)
    tables = overridden(overrides, None, only=TABLES)
    chosen = given(
        loss=loss, temperature=temperature, epochs=epochs, steps=steps, batch_size=batch_size,
        chunk_size=chunk_size, learning_rate=lr,
    )  # fmt: skip
    choices: dict[str, Any] = {
        "model": model, "data": data, "dataset": dataset, "captions": captions, "size": size,
        "long_tail": long_tail, "network": tables.get("network", {}),
        "training": tables.get("training", {}) | chosen, "device": device, "seed": seed,
    }  # fmt: skip
    with progress_listener() as progress:
        result = _run(choices, Workspace(out), progress)
    show(result, as_json)


def _run(choices: dict[str, Any], workspace: Workspace, progress: Any) -> dict[str, Any]:
    """The stage, imported when it runs: `dncbm --help` need not load torch."""
    from dncbm.contrastive.recipe import PretrainRecipe
    from pipelines.pretrain import pretrain_stage
    from pipelines.recipes import located_network

    if choices["model"] is not None:
        choices["model"] = located_network(choices["model"], Path.cwd())
    return pretrain_stage(PretrainRecipe(**choices), workspace, progress)


def add_to(app: typer.Typer) -> None:
    """The command."""
    app.command()(pretrain)
