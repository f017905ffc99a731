"""The command line: one command per stage, each a thin skin over a function of this package."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dncbm.errors import ArtifactMismatch
from pipelines import edits_cli, methods_cli
from pipelines.cli_parts import (
    SAE_PRESETS,
    AsJson,
    Backend,
    Data,
    Dataset,
    Device,
    Edits,
    EncoderSpec,
    Engine,
    Model,
    NamingPreset,
    Nec,
    Out,
    Photos,
    Precision,
    SaePreset,
    Seed,
    Set,
    Solver,
    Verbose,
    Vocabulary,
    Workers,
    commands,
    given,
    overridden,
    print_json,
    show,
    show_version,
)
from pipelines.cli_service import keys_app, serve
from pipelines.console import configure_logging, progress_listener, run_guarded
from pipelines.drift_cli import drift
from pipelines.jobs_cli import add_to
from pipelines.recipes import Recipe, located, merged, read_recipe
from pipelines.registry_cli import add_commands
from pipelines.targets import Targets, numbers
from pipelines.workspace import Workspace

app = typer.Typer(
    name="dncbm",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
add_commands(app)


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Image classifiers whose every decision is a sum of named concepts."""


@app.command()
def quickstart(
    out: Out = Path("quickstart"),
    data: Data = None,
    dataset: Dataset = None,
    encoder: EncoderSpec = "mini",
    device: Device = "auto",
    precision: Precision = "auto",
    backend: Backend = "torch",
    workers: Workers = 2,
    vocabulary: Vocabulary = None,
    sae_preset: SaePreset = "default",
    naming_preset: NamingPreset = "default",
    solver: Solver = None,
    overrides: Set = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Photos to concept bottleneck classifier, explanations and report, in one go."""
    configure_logging(verbose=verbose)
    recipe = Recipe(
        data=data,
        dataset=dataset,
        encoder=encoder,
        device=device,
        precision=precision,
        backend=backend,
        workers=workers,
        vocabulary=vocabulary,
        sae_preset=sae_preset,
        naming_preset=naming_preset,
        seed=seed,
        **merged({}, overridden(overrides, solver)),
    )
    _run(recipe.located(Path.cwd()), out, as_json=as_json)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="Recipe in TOML or JSON; must name `out`.")],
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """The whole pipeline from a recipe file."""
    configure_logging(verbose=verbose)
    recipe, out = read_recipe(config)
    _run(recipe, out, as_json=as_json)


def _run(recipe: Recipe, out: Path, *, as_json: bool) -> None:
    from pipelines.quickstart import run_pipeline, show_result

    with progress_listener(quiet=False) as progress:
        result = run_pipeline(recipe, Workspace(out), progress)
    if as_json:
        print_json(result)
    else:
        show_result(result, Workspace(out))


@app.command()
def embed(
    out: Out,
    data: Data = None,
    dataset: Dataset = None,
    encoder: EncoderSpec = "mini",
    device: Device = "auto",
    precision: Precision = "auto",
    backend: Backend = "torch",
    engine: Engine = "local",
    workers: Workers = 2,
    seed: Seed = 0,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Photos to embeddings; an interrupted run resumes where it stopped."""
    configure_logging(verbose=verbose)
    recipe = Recipe(
        data=data,
        dataset=dataset,
        encoder=encoder,
        device=device,
        precision=precision,
        backend=backend,
        engine=engine,
        workers=workers,
        seed=seed,
    )
    with progress_listener() as progress:
        result = commands().embed(recipe.located(Path.cwd()), Workspace(out), progress)
    show(result, as_json)


@app.command()
def discover(
    model: Model,
    preset: Annotated[str | None, typer.Option(help=SAE_PRESETS)] = None,
    overrides: Set = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the autoencoder.")] = None,
    stability: Annotated[
        int | None,
        typer.Option(help="Train this many seeds (3) and measure how alike they are; 0: none."),
    ] = None,
    train_workers: Annotated[
        int | None,
        typer.Option(help="Train with up to so many Ray workers; 0: in this process."),
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Embeddings to concepts: train the sparse autoencoder.

    What is not given stays as it was in the last run on this model.
    """
    configure_logging(verbose=verbose)
    tables = overridden(overrides, None, only=("sae",))
    if seed is not None:
        tables.setdefault("sae", {})["seed"] = seed
    changes = tables | given(sae_preset=preset, stability=stability, train_workers=train_workers)
    with progress_listener() as progress:
        result = commands().discover(Workspace(model), changes, progress)
    show(result, as_json)


@app.command()
def name(
    model: Model,
    vocabulary: Vocabulary = None,
    preset: Annotated[str | None, typer.Option(help="default or paper.")] = None,
    block: Annotated[list[str] | None, typer.Option(help="Never use this word as a name.")] = None,
    overrides: Set = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Concepts to names: match the images of every direction with the vocabulary.

    What is not given stays as it was in the last run on this model.
    """
    configure_logging(verbose=verbose)
    changes = overridden(overrides, None, only=("naming",)) | given(
        vocabulary=vocabulary and located(vocabulary, Path.cwd()),
        naming_preset=preset,
        blocked_words=tuple(block) if block else None,
    )
    with progress_listener() as progress:
        result = commands().name(Workspace(model), changes, progress)
    show(result, as_json)


@app.command()
def bottleneck(
    model: Model,
    solver: Solver = None,
    overrides: Set = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Codes to classes: train the probe, and measure it against its baselines.

    What is not given stays as it was in the last run on this model.
    """
    configure_logging(verbose=verbose)
    changes = overridden(overrides, solver, only=("probe",))
    with progress_listener() as progress:
        result = commands().bottleneck(Workspace(model), changes, progress)
    show(result, as_json)


@app.command()
def predict(
    model: Model,
    images: Photos,
    top: Annotated[int, typer.Option(help="Contributions to list.")] = 5,
    nec: Nec = None,
    by: Annotated[
        str, typer.Option(help="concept, or name: concepts of one name are added up.")
    ] = "concept",
    device: Device = "auto",
    edits: Edits = True,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """The class of each photo and the named concepts that made it."""
    configure_logging(verbose=verbose)
    result = commands().predict(model, images, top=top, nec=nec, device=device, by=by, edits=edits)
    print_json(result) if as_json else commands().show_predictions(result)


@app.command()
def explain(
    model: Model,
    images: Photos,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="Write maps: where in the photo each part comes from.")
    ] = False,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="A class to map, by name or index.")
    ] = None,
    concepts: Annotated[
        list[str] | None, typer.Option("--concept", help="A concept to map, by name or index.")
    ] = None,
    texts: Annotated[list[str] | None, typer.Option("--text", help="A text to map.")] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the pictures and maps.")
    ] = Path("explanations"),
    top: Annotated[int, typer.Option(help="Concepts to list and to map.")] = 3,
    nec: Nec = None,
    device: Device = "auto",
    edits: Edits = True,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Why each photo has its class: its concepts and, with --pixels, where they are.

    Maps are exact for a B-cos encoder and post hoc for any other; the output says which.
    """
    configure_logging(verbose=verbose)
    targets = Targets(
        classes=numbers(classes), concepts=numbers(concepts), texts=tuple(texts or ()),
        top=top, nec=nec,
    )  # fmt: skip
    folder = out if pixels or classes or concepts or texts else None
    result = commands().explain(model, images, targets, folder, device=device, edits=edits)
    print_json(result) if as_json else commands().show_predictions(result)


@app.command()
def evaluate(
    model: Model,
    data: Data = None,
    dataset: Dataset = None,
    device: Device = "auto",
    edits: Edits = True,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Accuracy on the held-out photos, or on photos of your own with --data."""
    configure_logging(verbose=verbose)
    with progress_listener() as progress:
        result = commands().evaluate(model, data, dataset, progress, device=device, edits=edits)
    show(result, as_json)


@app.command()
def report(model: Model, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """The HTML report of a finished model."""
    configure_logging(verbose=verbose)
    with progress_listener() as progress:
        result = commands().report(Workspace(model), progress)
    show(result, as_json)


app.command()(serve)
app.add_typer(keys_app)


@app.command()
def doctor(
    model: Annotated[Path | None, typer.Argument(metavar="[MODEL]", help="Also check it.")] = None,
    as_json: AsJson = False,
) -> None:
    """What this installation has, and whether a model directory is whole."""
    from pipelines.doctor import examine

    found = examine(model)
    show(found, as_json)
    if any(state.startswith("stale") for state in found.get("model", {}).values()):
        raise ArtifactMismatch(
            "Some parts were made from others than the ones beside them (stale, above). Run "
            "their stages again: discover, name, bottleneck, report."
        )


edits_cli.register(app)
add_to(app)
app.command()(drift)
methods_cli.add_to(app)


def main() -> None:
    """Entry point of the `dncbm` command."""
    sys.exit(run_guarded(app))


if __name__ == "__main__":
    main()
