"""`dncbm distill`: a small student that keeps its teacher's answers and reasons."""

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

_TABLES = ("training", "network")


def add_distill(app: typer.Typer) -> None:
    """Hang the command into the command line."""
    app.command()(distill)


def distill(
    out: Out,
    teacher: Annotated[
        str,
        typer.Option(
            help="An encoder (as --encoder), torchvision:NAME[@FILE], timm:NAME[@FILE], bcos:DIR, "
            "or a directory: a model, or what was distilled before."
        ),
    ],
    student: Annotated[
        str,
        typer.Option(
            help="scratch:NAME (ours), scratch:timm:NAME or scratch:torchvision:NAME without "
            "trained weights, timm:NAME[@FILE], torchvision:NAME[@FILE], or for encoders an "
            "open_clip architecture or the directory of an earlier student."
        ),
    ],
    data: Data = None,
    dataset: Dataset = None,
    explanation: Annotated[
        str | None,
        typer.Option(help="Compared for the teacher's class: gradcam, ixg, intgrad, bcos or none."),
    ] = None,
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Ask the teacher once per photo, not per crop.")
    ] = False,
    weight: Annotated[float | None, typer.Option(help="Of explanations (λ); 1.")] = None,
    temperature: Annotated[float | None, typer.Option(help="T of both softmaxes; 1.")] = None,
    every: Annotated[int | None, typer.Option(help="Updates per comparison; 1.")] = None,
    shots: Annotated[int | None, typer.Option(help="Photos per class; all.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the photos; 10.")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates, in place of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Photos per update; 64.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate; 1e-3.")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels of the student.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A field of training or network, e.g. training.label_weight=0.5."
        ),
    ] = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of split, shots, weights and crops.")] = 0,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """A small student of a trained network: the same answers, for the same reasons.

    Classifiers learn logits and explanations, encoders the teacher's embeddings, and students of a
    model with a bottleneck keep its concepts. An interrupted run resumes where it stopped.
    """
    configure_logging(verbose=verbose)
    tables = overridden(overrides, None, only=_TABLES)
    chosen = given(
        explanation=explanation, frozen=frozen or None, weight=weight, temperature=temperature,
        every=every, epochs=epochs, steps=steps, batch_size=batch_size, learning_rate=lr,
    )  # fmt: skip
    choices = {
        "teacher": teacher, "student": student, "data": data, "dataset": dataset, "size": size,
        "shots": shots, "network": tables.get("network", {}),
        "training": tables.get("training", {}) | chosen, "device": device, "seed": seed,
    }  # fmt: skip
    with progress_listener() as progress:
        result = _run(choices, out, progress)
    show(result, as_json)


def _run(choices: dict[str, Any], out: Path, progress: Any) -> dict[str, Any]:
    """The stage, imported when it runs: `dncbm --help` need not load torch."""
    from dncbm.distillation.recipe import DistillRecipe
    from pipelines.distill import distill_stage
    from pipelines.recipes import Recipe, located, located_network
    from pipelines.workspace import Workspace

    here = Path.cwd()
    photos = Recipe(data=choices["data"], dataset=choices["dataset"]).located(here)
    teacher = choices["teacher"]
    is_model = (here / Path(teacher).expanduser() / "cbm").is_dir()
    places = {
        "data": photos.data, "dataset": photos.dataset,
        "teacher": located(teacher, here) if is_model else located_network(teacher, here),
        "student": located_network(choices["student"], here),
    }  # fmt: skip
    return distill_stage(DistillRecipe.of(choices | places), Workspace(out), progress)
