"""The command line: one command per stage, each a thin skin over a function of this package."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from dncbm.artifacts import package_version
from dncbm.errors import ArtifactMismatch, InvalidInput
from pipelines.console import configure_logging, progress_listener, run_guarded, stdout
from pipelines.recipes import TABLES, Recipe, located, merged, read_recipe
from pipelines.targets import Targets, numbers
from pipelines.workspace import Workspace

app = typer.Typer(
    name="dncbm",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Model directory.")]
Photos = Annotated[
    list[Path], typer.Argument(metavar="IMAGE...", help="Photos, or folders of them.")
]
Nec = Annotated[int | None, typer.Option(help="Use the head with this many concepts per class.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Model directory to write.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON line last, for machines.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", help="Photos: a folder (one sub-folder per class), zip, tar, CSV, Parquet."
    ),
]
Dataset = Annotated[
    str | None, typer.Option("--dataset", help="hf:NAME or torchvision:NAME (needs the network).")
]
EncoderSpec = Annotated[
    str,
    typer.Option(
        "--encoder", help="mini, ARCH:PRETRAINED, hf-hub:ORG/NAME or ARCH:/path/to/weights."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
Precision = Annotated[str, typer.Option(help="fp32, bf16, fp16 or auto.")]
Backend = Annotated[
    str,
    typer.Option(
        help="What computes embeddings on a CPU: torch, torch-bf16, onnxruntime, openvino, "
        "openvino-bf16, onnxruntime-int8; or auto: measured here, the fastest exact one."
    ),
]
Engine = Annotated[str, typer.Option(help="local, or ray: the cluster at $RAY_ADDRESS.")]
Workers = Annotated[int, typer.Option(help="Image decoding processes.")]
Vocabulary = Annotated[
    str | None, typer.Option(help="Word list, one entry per line; default: the bundled one.")
]
SaePreset = Annotated[str, typer.Option("--sae-preset", help="default, dncbm-paper, topk, ...")]
NamingPreset = Annotated[str, typer.Option("--naming-preset", help="default or paper.")]
Solver = Annotated[str | None, typer.Option(help="Probe solver: elastic-net or paper.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override a field of sae, naming or probe, e.g. sae.num_concepts=1024; "
        "FIELD= takes an override back.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of split, autoencoder and probe.")]
_SAE_PRESETS = (
    "default, topk, batchtopk, matryoshka, msae, archetypal, relu, gated, jumprelu or dncbm-paper."
)
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what happens inside.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        stdout.print(f"dncbm {package_version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
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
        **merged({}, _overrides(overrides, solver)),
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
        _print_json(result)
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
        result = _commands().embed(recipe.located(Path.cwd()), Workspace(out), progress)
    _show(result, as_json)


@app.command()
def discover(
    model: Model,
    preset: Annotated[str | None, typer.Option(help=_SAE_PRESETS)] = None,
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
    tables = _overrides(overrides, None, only=("sae",))
    if seed is not None:
        tables.setdefault("sae", {})["seed"] = seed
    changes = tables | _given(sae_preset=preset, stability=stability, train_workers=train_workers)
    with progress_listener() as progress:
        result = _commands().discover(Workspace(model), changes, progress)
    _show(result, as_json)


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
    changes = _overrides(overrides, None, only=("naming",)) | _given(
        vocabulary=vocabulary and located(vocabulary, Path.cwd()),
        naming_preset=preset,
        blocked_words=tuple(block) if block else None,
    )
    with progress_listener() as progress:
        result = _commands().name(Workspace(model), changes, progress)
    _show(result, as_json)


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
    changes = _overrides(overrides, solver, only=("probe",))
    with progress_listener() as progress:
        result = _commands().bottleneck(Workspace(model), changes, progress)
    _show(result, as_json)


@app.command()
def bcosify(
    out: Out,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="An encoder (as --encoder), torchvision:NAME[@FILE], timm:NAME[@FILE], or "
            "scratch:NAME for a B-cos network without trained weights.",
        ),
    ] = "mini",
    data: Data = None,
    dataset: Dataset = None,
    teacher: Annotated[
        str | None, typer.Option(help="Encoder to learn from; default: the model itself.")
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="pairwise or cosine (encoders); uniform-off-label, bce or cross-entropy."
        ),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the photos; 10.")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates, in place of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Photos per update; 64.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    b: Annotated[float, typer.Option(help="Exponent B of the layers, at least 1.")] = 2.0,
    size: Annotated[int | None, typer.Option(help="Pixels; default: as the model.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of training or convert, e.g. convert.bias=keep."),
    ] = None,
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
    tables = _overrides(overrides, None, only=("training", "convert"))
    given = _given(loss=loss, epochs=epochs, steps=steps, batch_size=batch_size, learning_rate=lr)
    choices = {
        "model": model, "teacher": teacher, "data": data, "dataset": dataset, "b": b, "size": size,
        "convert": tables.get("convert", {}), "training": tables.get("training", {}) | given,
        "device": device, "seed": seed,
    }  # fmt: skip
    with progress_listener() as progress:
        result = _commands().bcosify(choices, Workspace(out), progress)
    _show(result, as_json)


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
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """The class of each photo and the named concepts that made it."""
    configure_logging(verbose=verbose)
    result = _commands().predict(model, images, top=top, nec=nec, device=device, by=by)
    if as_json:
        _print_json(result)
    else:
        _commands().show_predictions(result)


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
    asked = pixels or classes or concepts or texts
    result = _commands().explain(model, images, targets, out if asked else None, device=device)
    if as_json:
        _print_json(result)
    else:
        _commands().show_predictions(result)


@app.command()
def evaluate(
    model: Model,
    data: Data = None,
    dataset: Dataset = None,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Accuracy on the held-out photos, or on photos of your own with --data."""
    configure_logging(verbose=verbose)
    with progress_listener() as progress:
        result = _commands().evaluate(model, data, dataset, progress, device=device)
    _show(result, as_json)


@app.command()
def report(model: Model, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """The HTML report of a finished model."""
    configure_logging(verbose=verbose)
    with progress_listener() as progress:
        result = _commands().report(Workspace(model), progress)
    _show(result, as_json)


@app.command()
def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    device: Device = "auto",
    verbose: Verbose = False,
) -> None:
    """Serve a model directory (or a folder of several) over HTTP."""
    configure_logging(verbose=verbose)
    _commands().serve(model, host, port, device)


@app.command()
def doctor(
    model: Annotated[Path | None, typer.Argument(metavar="[MODEL]", help="Also check it.")] = None,
    as_json: AsJson = False,
) -> None:
    """What this installation has, and whether a model directory is whole."""
    from pipelines.doctor import examine

    found = examine(model)
    _show(found, as_json)
    if any(state.startswith("stale") for state in found.get("model", {}).values()):
        raise ArtifactMismatch(
            "Some parts were made from others than the ones beside them (stale, above). Run "
            "their stages again: discover, name, bottleneck, report."
        )


def _commands() -> ModuleType:
    """The stages, imported when one runs: `dncbm --help` need not load torch."""
    return importlib.import_module("pipelines.commands")


def _overrides(
    assignments: list[str] | None, solver: str | None, *, only: tuple[str, ...] = TABLES
) -> dict[str, dict[str, Any]]:
    """`sae.k=16` and `probe.solver=paper` as `{"sae": {...}, "probe": {...}}`."""
    tables: dict[str, dict[str, Any]] = {}
    for assignment in assignments or ():
        target, equals, text = assignment.partition("=")
        table, dot, key = target.partition(".")
        if not (equals and dot and key and table in only):
            forms = " or ".join(f"{name}.FIELD=VALUE" for name in only)
            raise InvalidInput(f"--set {assignment!r} is not of the form {forms}.")
        tables.setdefault(table, {})[key] = _parse(text)
    if solver is not None:
        tables.setdefault("probe", {})["solver"] = solver
    return tables


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(result)
    else:
        _commands().show_table(result)


def _print_json(result: dict[str, Any]) -> None:
    stdout.file.write(json.dumps(result) + "\n")
    stdout.file.flush()


def main() -> None:
    """Entry point of the `dncbm` command."""
    sys.exit(run_guarded(app))


if __name__ == "__main__":
    main()
