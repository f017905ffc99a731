"""The whole path, top to bottom: photos, embeddings, concepts, names, classifier, report."""

import dataclasses
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from dncbm.artifacts import slug
from dncbm.data.concept_world import write_concept_world
from dncbm.data.world_truth import read_truth, score_world
from dncbm.encoders.cache import EmbeddingsArtifact
from dncbm.encoders.clip import load_encoder
from dncbm.predictor import Predictor
from dncbm.recipes import Recipe, naming_config, probe_config, sae_config
from dncbm.sae.encode import encode_rows
from dncbm.sae.rows import ShardRows
from dncbm.training.progress import Progress
from dncbm.types import ConceptName
from pipelines.bottleneck import bottleneck_stage, test_accuracy
from pipelines.console import stdout
from pipelines.discover import discover_stage
from pipelines.embed import embed_stage, open_recipe_source, require_classes, split_records
from pipelines.name import item_ids, name_stage, vocabulary_words
from pipelines.photos import sample_photos
from pipelines.report import report_stage
from pipelines.serialise import label, prediction_dict
from pipelines.workspace import Stopwatch, Workspace

WORLD_SIZE = 128


def run_pipeline(recipe: Recipe, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Run every stage that is not done yet and return the result table of the run.

    Stages whose recipe and inputs have not changed are read back, so the same command
    continues after a kill, and a second run costs seconds.
    """
    watch = Stopwatch()
    rendered = recipe.data is None and recipe.dataset is None
    if rendered:
        with watch("render"):
            recipe = render_world(recipe, workspace.create().root)
    source = open_recipe_source(recipe)
    splits = split_records(source, recipe.seed)
    require_classes(source, splits)
    encoder = load_encoder(recipe.encoder, device=recipe.device, precision=recipe.precision)
    check_choices(recipe, encoder.embed_dim, splits.count("train"))
    workspace.create().write_recipe(recipe)

    with watch("embed"):
        embeddings = embed_stage(recipe, source, encoder, workspace.embeddings, progress)
    with watch("discover"):
        sae = discover_stage(recipe, embeddings, workspace, progress)
    with watch("name"):
        dictionary = name_stage(recipe, embeddings, sae, encoder, workspace, progress)
    with watch("bottleneck"):
        cbm = bottleneck_stage(recipe, embeddings, sae, dictionary, encoder, workspace, progress)
    predictor = Predictor(encoder=encoder, sae=sae.model, dictionary=dictionary, cbm=cbm)
    with watch("explain"):
        samples = explain_samples(predictor)
    with watch("report"):
        report = report_stage(recipe, workspace, predictor, progress)
    workspace.clean()
    truth = {"world": score_against_truth(recipe, embeddings, predictor)} if rendered else {}
    return truth | {
        "accuracy": test_accuracy(cbm),
        "sae": _sae_metrics(sae.manifest.metrics, sae.model.num_concepts),
        "naming": dict(dictionary.manifest.metrics["naming"]),
        "images": {
            "embedded": len(embeddings),
            "broken": embeddings.items.num_rows - len(embeddings),
        },
        "samples": samples,
        "report": str(report),
        "seconds": watch.seconds,
    }


def check_choices(recipe: Recipe, embed_dim: int, num_rows: int) -> None:
    """Refuse a choice that a later stage would refuse, before hours of work on earlier ones."""
    sae_config(recipe, embed_dim, num_rows)
    vocabulary_words(recipe)
    naming_config(recipe)
    probe_config(recipe)


def render_world(recipe: Recipe, root: Path) -> Recipe:
    """The recipe with a freshly rendered (or an already rendered) concept world as its data."""
    out = root / "concept-world"
    write_concept_world(out, num_images=recipe.world_images, size=WORLD_SIZE, seed=recipe.seed)
    return dataclasses.replace(recipe, data=str(out))


def score_against_truth(
    recipe: Recipe, embeddings: EmbeddingsArtifact, predictor: Predictor
) -> dict[str, float]:
    """How well the concepts and their names match what the rendered scenes really show."""
    truth = read_truth(Path(str(recipe.data)))
    position = {path: index for index, path in enumerate(truth.paths)}
    order = [position[path] for path in item_ids(embeddings, embeddings.rows())]
    codes = encode_rows(predictor.sae, ShardRows(embeddings.shards))
    words = [_candidates(name) for name in predictor.dictionary.names]
    return asdict(score_world(codes, truth.presence[order], truth.concepts, words))


def _candidates(name: ConceptName) -> list[str]:
    """Words of a concept, best first; an unnamed one has no first word, but alternatives."""
    return [name.name if name.status == "named" else "", *(word for word, _ in name.alternatives)]


def _sae_metrics(metrics: dict[str, Any], num_concepts: int) -> dict[str, Any]:
    """Measured on held-out photos where there are any; dead means dead on all train photos."""
    judged = metrics.get("held_out") or metrics
    return {
        "unexplained_variance": judged["unexplained_variance"],
        "unexplained_variance_train": metrics["unexplained_variance"],
        "l0": judged["l0"],
        "dead_fraction": metrics["dead_fraction"],
        "num_concepts": num_concepts,
    }


def explain_samples(predictor: Predictor) -> list[dict[str, Any]]:
    """Predictions with contributions, and the strongest concepts, of the sample photos."""
    photos = sample_photos()
    images = [image for _, image in photos]
    predictions = predictor.predict(images, by="name")
    codes = predictor.encode(predictor.embed(images)).numpy()
    return [
        {
            "image": name,
            **prediction_dict(best[0]),
            "concepts": _strongest(predictor, row),
        }
        for (name, _), best, row in zip(photos, predictions, codes, strict=True)
    ]


def _strongest(predictor: Predictor, codes: np.ndarray, limit: int = 5) -> list[dict[str, Any]]:
    order = np.argsort(-codes, kind="stable")[:limit]
    return [
        {"concept": int(i), "name": predictor.dictionary.names[i].name, "code": float(codes[i])}
        for i in order
        if codes[i] > 0
    ]


def show_result(result: dict[str, Any], workspace: Workspace) -> None:
    """Print the accuracy table, the sample explanations and the next two commands."""
    accuracy = Table("classifier", "test accuracy", title="Held-out photos")
    for name, value in result["accuracy"].items():
        accuracy.add_row(name, "-" if value is None else f"{value:.1%}")
    stdout.print(accuracy)
    for sample in result["samples"]:
        parts = ", ".join(
            f"{label(part)} {part['contribution']:+.2f}" for part in sample["contributions"]
        )
        concepts = ", ".join(label(part) for part in sample["concepts"])
        stdout.print(f"{sample['image']}: {sample['class']} because {parts}")
        stdout.print(f"  sees: {concepts}")
    sae, naming = result["sae"], result["naming"]
    stdout.print(
        f"{sae['num_concepts']} concepts, {naming['named_fraction']:.0%} named "
        f"({naming['unique_names']} different names); "
        f"unexplained variance {sae['unexplained_variance']:.3f} on held-out photos, "
        f"{sae['l0']:.1f} concepts per image; "
        f"{sum(result['seconds'].values()):.0f} s in all."
    )
    if "world" in result:
        world = result["world"]
        stdout.print(
            f"Against the truth of the rendered scenes: mean correlation "
            f"{world['mean_correlation']:.2f}, {world['recovered_fraction']:.0%} of the concepts "
            f"recovered, {world['naming_top1']:.0%} named exactly "
            f"({world['naming_top5']:.0%} within the alternatives)."
        )
    stdout.print(f"\nReport:  {result['report']}", soft_wrap=True)
    stdout.print(f"Service: dncbm serve {workspace.root} --port 8000", soft_wrap=True)
    stdout.print(
        f"         curl -F image=@photo.jpg http://127.0.0.1:8000/v1/models/"
        f"{slug(workspace.root.resolve().name)}/predict",
        soft_wrap=True,
    )
