"""What the stage commands do, as functions from a model directory to a table of results."""

import dataclasses
from pathlib import Path
from typing import Any

from PIL.Image import Image
from rich.table import Table
from rich.text import Text

from dncbm.artifacts import load_manifest
from dncbm.bcos.recipe import BcosRecipe
from dncbm.data.images import decode_image
from dncbm.data.layout import is_image_name
from dncbm.encoders.cache import EmbeddingsArtifact, load_embeddings
from dncbm.encoders.clip import Encoder, load_encoder, load_encoder_of
from dncbm.errors import InvalidInput
from dncbm.naming.dictionary import load_dictionary
from dncbm.predictor import Predictor
from dncbm.sae.store import load_sae
from dncbm.training.progress import Progress
from pipelines.bcosify import bcosify_stage
from pipelines.bottleneck import bottleneck_stage, test_accuracy
from pipelines.console import stdout
from pipelines.discover import discover_stage
from pipelines.edited import load_edited_cbm, load_predictor, say_edit
from pipelines.embed import embed_stage, open_recipe_source
from pipelines.evaluate import evaluate_photos, evaluate_test_split
from pipelines.explain import explain_photo, file_names
from pipelines.name import name_stage
from pipelines.recipes import TABLES, Recipe, located_network, merged
from pipelines.report import report_stage
from pipelines.serialise import label, prediction_dict
from pipelines.targets import Targets, meant, say_meant
from pipelines.workspace import Workspace

Result = dict[str, Any]

_PHOTOS_AT_ONCE = 64
_OF_EMBED = (
    "data", "dataset", "encoder", "device", "precision", "backend", "engine", "workers",
    "batch_size", "seed",
)  # fmt: skip
"""Fields of a recipe that `dncbm embed` sets anew."""


def embed(recipe: Recipe, workspace: Workspace, progress: Progress) -> Result:
    """Stage 1 of a new or an interrupted model directory; later stages' choices are kept."""
    if workspace.has_recipe():
        recipe = dataclasses.replace(
            workspace.read_recipe(), **{name: getattr(recipe, name) for name in _OF_EMBED}
        )
    source = open_recipe_source(recipe)
    encoder = load_encoder(recipe.encoder, device=recipe.device, precision=recipe.precision)
    embeddings = embed_stage(recipe, source, encoder, workspace.create().embeddings, progress)
    workspace.write_recipe(recipe)
    return {
        "embeddings": str(workspace.embeddings),
        "images": len(embeddings),
        "broken": embeddings.items.num_rows - len(embeddings),
        "embed_dim": embeddings.embed_dim,
        "encoder": encoder.spec,
        "backend": embeddings.manifest.config.get("backend", "torch"),
        "next": f"dncbm discover {workspace.root}",
    }


def discover(workspace: Workspace, changes: Result, progress: Progress) -> Result:
    """Stage 2 on an embedded model directory."""
    recipe = _changed_recipe(workspace, changes)
    sae = discover_stage(recipe, _embeddings(workspace), workspace, progress)
    workspace.write_recipe(recipe)
    held_out = sae.manifest.metrics.get("held_out") or {}
    held_out = {k: v for k, v in held_out.items() if k != "num_concepts"}
    return {
        "sae": str(workspace.sae),
        **sae.manifest.metrics,
        "held_out": held_out,
        "next": f"dncbm name {workspace.root}",
    }


def name(workspace: Workspace, changes: Result, progress: Progress) -> Result:
    """Stage 3 on a model directory with an autoencoder."""
    recipe = _changed_recipe(workspace, changes)
    embeddings = _embeddings(workspace)
    dictionary = name_stage(
        recipe,
        embeddings,
        load_sae(workspace.sae),
        _encoder(recipe, workspace),
        workspace,
        progress,
    )
    workspace.write_recipe(recipe)
    return {
        "dictionary": str(workspace.dictionary),
        **dictionary.manifest.metrics,
        "next": f"dncbm bottleneck {workspace.root}",
    }


def bottleneck(workspace: Workspace, changes: Result, progress: Progress) -> Result:
    """Stage 4 on a model directory with a named dictionary."""
    recipe = _changed_recipe(workspace, changes)
    cbm = bottleneck_stage(
        recipe,
        _embeddings(workspace),
        load_sae(workspace.sae),
        load_dictionary(workspace.dictionary),
        _encoder(recipe, workspace),
        workspace,
        progress,
    )
    workspace.write_recipe(recipe)
    return {
        "cbm": str(workspace.cbm),
        "accuracy": test_accuracy(cbm),
        "next": f"dncbm report {workspace.root}",
    }


def bcosify(choices: Result, workspace: Workspace, progress: Progress) -> Result:
    """A trained network, or none yet, to the artifact `bcos` of a model directory."""
    here = Path.cwd()
    photos = Recipe(data=choices["data"], dataset=choices["dataset"]).located(here)
    places = {"data": photos.data, "dataset": photos.dataset}
    for name in ("model", "teacher"):
        places[name] = choices[name] and located_network(choices[name], here)
    return bcosify_stage(BcosRecipe.of(choices | places), workspace, progress)


def predict(
    model: Path,
    images: list[Path],
    *,
    top: int,
    nec: int | None,
    device: str = "auto",
    by: str = "concept",
    edits: bool = True,
) -> Result:
    """The best class of each photo, folders opened, with its named contributions.

    The active edit of the model is applied, and named, unless `edits` says otherwise.
    """
    images = photo_paths(images)
    predictor, edit = load_predictor(model, device=device, edits=edits)
    return {"edit": edit, "predictions": _predicted(predictor, images, top, nec, by)}


def _predicted(
    predictor: Predictor, images: list[Path], top: int, nec: int | None, by: str = "concept"
) -> list[Result]:
    found = []
    for start in range(0, len(images), _PHOTOS_AT_ONCE):
        paths = images[start : start + _PHOTOS_AT_ONCE]
        photos = [decoded(path) for path in paths]
        predictions = predictor.predict(photos, top_contributions=top, nec=nec, by=by)
        found += [
            {"image": str(path)} | prediction_dict(best[0])
            for path, best in zip(paths, predictions, strict=True)
        ]
    return found


def explain(
    model: Path,
    images: list[Path],
    targets: Targets,
    out: Path | None,
    *,
    device: str = "auto",
    edits: bool = True,
) -> Result:
    """The decision of each photo; with `out` the maps of what was asked for, written there."""
    paths = photo_paths(images)
    predictor, edit = load_predictor(model, device=device, edits=edits)
    asked = meant(predictor.dictionary.names, targets.concepts)
    found = _predicted(predictor, paths, targets.top, targets.nec)
    result: Result = {"edit": edit, "meant": asked, "predictions": found}
    if out is None:
        return result
    for item, path, name in zip(result["predictions"], paths, file_names(paths), strict=True):
        item["pixels"] = explain_photo(predictor, name, decoded(path), targets, out)
    return result


def evaluate(
    model: Path,
    data: str | None,
    dataset: str | None,
    progress: Progress,
    *,
    device: str = "auto",
    edits: bool = True,
) -> Result:
    """Accuracy per head, on the held-out split or on other photos, of the active edit if any."""
    if data is None and dataset is None:
        cbm, edit = load_edited_cbm(model, edits=edits)
        return {"edit": edit, **evaluate_test_split(Workspace(model), cbm)}
    source = open_recipe_source(Recipe(data=data, dataset=dataset))
    predictor, edit = load_predictor(model, device=device, edits=edits)
    return {"edit": edit, **evaluate_photos(predictor, source, progress)}


def report(workspace: Workspace, progress: Progress) -> Result:
    """The HTML report of a finished model directory."""
    path = report_stage(workspace.read_recipe(), workspace, None, progress)
    return {"report": str(path)}


def photo_paths(paths: list[Path]) -> list[Path]:
    """The photos given, folders opened.

    Raises:
        InvalidInput: a folder without images.
    """
    return [photo for path in paths for photo in _photos(path)]


def _photos(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.rglob("*") if is_image_name(p.relative_to(path).as_posix()))
    if not found:
        raise InvalidInput(f"No images in the folder {path}. Give photos, or a folder of them.")
    return found


def decoded(path: Path) -> Image:
    """The photo in a file.

    Raises:
        InvalidInput: it cannot be read, or is no image.
    """
    try:
        return decode_image(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"Cannot read the image {path}: {error.strerror}.") from error
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error


def _changed_recipe(workspace: Workspace, changes: Result) -> Recipe:
    recipe = workspace.read_recipe()
    workspace.create()
    tables = {name: getattr(recipe, name) for name in TABLES}
    return dataclasses.replace(recipe, **merged(tables, changes))


def _embeddings(workspace: Workspace) -> EmbeddingsArtifact:
    load_manifest(workspace.embeddings, "embeddings")
    return load_embeddings(workspace.embeddings)


def _encoder(recipe: Recipe, workspace: Workspace) -> Encoder:
    mark = load_manifest(workspace.embeddings, "embeddings").inputs.get("encoder")
    return load_encoder_of(
        workspace.root, recipe.encoder, mark, device=recipe.device, precision=recipe.precision
    )


def show_table(result: Result) -> None:
    """Print a table of results, nested tables indented by their name; an edit in a line before."""
    if "edit" in result:
        say_edit(result)
        result = {key: value for key, value in result.items() if key != "edit"}
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in _flatten(result):
        if not isinstance(value, list):  # histograms and the like: for --json
            table.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
    stdout.print(table)


def _flatten(result: Result, prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in result.items():
        if isinstance(value, dict):
            rows += _flatten(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value))
    return rows


def show_predictions(result: Result) -> None:
    """Print each photo's class with its contributions as a sum that ends in the logit."""
    say_edit(result)
    say_meant(result.get("meant", []))
    for item in result["predictions"]:
        title = f"{item['image']}: {item['class']} ({item['probability']:.1%})"
        table = Table(title=Text(title))
        for column in ("concept", "code", "weight", "contribution"):
            table.add_column(column, justify="left" if column == "concept" else "right")
        for part in item["contributions"]:
            numbers = [f"{part[key]:+.3f}" for key in ("code", "weight", "contribution")]
            table.add_row(label(part), *numbers)
        table.add_row("bias", "", "", f"{item['bias']:+.3f}")
        table.add_row("all other concepts", "", "", f"{item['remainder']:+.3f}")
        table.add_row("logit", "", "", f"{item['logit']:+.3f}", end_section=True)
        stdout.print(table)
        if "pixels" in item:
            _show_pixels(item["pixels"])


def _show_pixels(found: Result) -> None:
    for item in found["attributions"]:
        how = "exact" if item["exact"] else f"post hoc, {item['method']}"
        parts = f"{item['kind']} {item['name']!r} {item['value']:+.3f} ({how})"
        if item["exact"]:
            parts += (
                f" = pixels {item['map_sum']:+.3f}, positions {item['position']:+.3f}, "
                f"constants {item['bias']:+.3f}"
            )
        stdout.print(Text(parts))
    stdout.print(Text(f"Picture: {found['picture']}"))
