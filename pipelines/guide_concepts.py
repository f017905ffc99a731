"""A bottleneck whose concepts are told where to lie, or are not to be used, as a new model."""

import shutil
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dncbm.artifacts import MANIFEST, create_artifact, fingerprint, load_manifest
from dncbm.attribution.targets import indices
from dncbm.bcos.store import Blueprint
from dncbm.data.views import Views
from dncbm.encoders.clip import Encoder, load_encoder
from dncbm.encoders.spec import GUIDED
from dncbm.errors import InvalidInput
from dncbm.guidance.concepts import ConceptTask
from dncbm.guidance.depths import layer_at
from dncbm.guidance.recipe import GuideRecipe
from dncbm.guidance.task import guiding_method
from dncbm.predictor import Predictor
from dncbm.probe.interventions import trained_without
from dncbm.probe.store import save_cbm
from dncbm.probe.train import DENSE, ProbeConfig
from dncbm.sae.encode import encode_rows
from dncbm.training.loop import Row
from dncbm.training.photos import whole
from dncbm.training.progress import Progress
from pipelines.guided_data import How, Prepared, prepare, read_material
from pipelines.workspace import Workspace

_GEOMETRIES = {"shortest": "shortest", "squash": "resized"}
"""How open_clip's ways of resizing are called where masks are drawn."""


def guide_concepts_stage(recipe: GuideRecipe, workspace: Workspace, progress: Progress) -> Row:
    """Train the image tower of a model directory, and write a new one with the same dictionary.

    The probe is fitted again on the codes of the guided tower, without the forbidden concepts.

    Raises:
        InvalidInput: nothing to guide, other classes than the model's, or an attribution that
            cannot be guided.
        UnknownName: a concept or a layer that there is not.
        ArtifactError: no model directory.
    """
    from pipelines.guide import Job, views_of

    if Path(recipe.model).expanduser().resolve() == workspace.root.resolve():
        raise InvalidInput(
            f"--out is {recipe.model}, the model that is guided; its encoder would be replaced by "
            "one made of it. Give another directory."
        )
    model = Predictor.load(recipe.model, device="cpu")
    concepts, labels, forbidden = _wanted(recipe, model)
    material = read_material(recipe)
    if material.multiple or material.classes != model.classes:
        raise InvalidInput(
            f"The photos have the classes {', '.join(material.classes[:5])}; those of "
            f"{recipe.model} are {', '.join(model.classes[:5])}. Give photos with its classes."
        )
    tower = deepcopy(model.encoder.image_tower()).requires_grad_(True)
    configs = recipe.configs(multiple=False, is_bcos=False)
    for config in configs:
        layer_at(tower, config.layer)
        guiding_method(config.attribution, tower)
    views, how = _seen(model.encoder)
    views = views_of(views, crops=recipe.crops)
    blueprint = Blueprint(family="encoder", name=model.encoder.spec)
    inputs = material.inputs | {
        "model": model.encoder.fingerprint, "bottleneck": model.cbm.manifest.fingerprint,
    }  # fmt: skip
    job = Job(recipe, workspace, material, blueprint, views, configs, inputs, progress)
    if not (job.is_current() and _has_bottleneck(workspace)):
        workspace.create()
        prepared = prepare(material, recipe, how, workspace.work, progress, labels=labels)
        teacher = deepcopy(tower)

        def task() -> ConceptTask:
            return ConceptTask(
                deepcopy(model.sae).to(job.device), model.cbm.probe, concepts, teacher,
                teacher_weight=recipe.teacher_weight, forbidden=forbidden,
                forbidden_weight=recipe.forbid_weight,
            )  # fmt: skip

        guided = job.train(prepared, tower, task)
        _write_model(workspace, model, Path(recipe.model), guided, prepared, views, forbidden)
        workspace.clean()
    refitted = load_manifest(workspace.cbm, "cbm").metrics["accuracy"]
    accuracy = {split: heads[DENSE] for split, heads in refitted.items()}
    return {**job.result(), "accuracy_refitted": accuracy, "model": str(workspace.root)}


def _has_bottleneck(workspace: Workspace) -> bool:
    """Whether the bottleneck, which is written last, is that of the guided tower beside it."""
    if not (workspace.cbm / MANIFEST).is_file():
        return False
    encoder = load_encoder(f"{GUIDED}:{workspace.root}", device="cpu", precision="fp32")
    return load_manifest(workspace.cbm, "cbm").inputs.get("encoder") == encoder.fingerprint


def _wanted(recipe: GuideRecipe, model: Predictor) -> tuple[list[int], list[str], list[int]]:
    """Guided concepts, the label of each, and forbidden concepts; a name may mean several."""
    names = [name.name for name in model.dictionary.names]
    concepts: list[int] = []
    labels: list[str] = []
    for concept, label in recipe.concepts.items():
        found = indices("concept", [_number(concept)], names)
        concepts += found
        labels += [label] * len(found)
    forbidden = indices("concept", [_number(name) for name in recipe.forbid], names)
    if not (concepts or forbidden):
        raise InvalidInput(
            "A model directory is guided by its concepts: name one and the label of its boxes "
            "(--concept bird=bird), or one that is not to be used (--forbid water)."
        )
    if not concepts:
        raise InvalidInput(
            "Training needs a concept that is guided (--concept NAME=LABEL). To take a concept out "
            "of the decisions alone, edit the model: dncbm edit."
        )
    return concepts, labels, forbidden


def _number(name: str) -> int | str:
    return int(name) if name.isdecimal() else name


def _seen(encoder: Encoder) -> tuple[Views, How]:
    """The pixels that an encoder takes, and how photos become them."""
    config = encoder.preprocess_config
    mode = str(config.get("resize_mode", "shortest"))
    if mode not in _GEOMETRIES or len(set(encoder.image_size)) > 1:
        raise InvalidInput(
            f"{encoder.spec} takes pixels of {encoder.image_size}, resized by {mode!r}; boxes can "
            f"be placed in squares, resized by {' or '.join(_GEOMETRIES)}."
        )
    size = encoder.image_size[0]
    views = Views(size=size, mean=tuple(config["mean"]), std=tuple(config["std"]))
    resize = encoder.preprocess.resize
    return views, How(size, _GEOMETRIES[mode], lambda _size: resize, config)


def _write_model(
    workspace: Workspace, model: Predictor, origin: Path, tower: nn.Module, prepared: Prepared,
    views: Views, forbidden: Sequence[int],
) -> None:  # fmt: skip
    """Autoencoder and dictionary as they were, and heads fitted on the guided tower's codes."""
    for part in ("sae", "dictionary"):
        _copied(origin / part, workspace.root / part)
    spec = f"{GUIDED}:{workspace.root.absolute()}"
    photos, truth = prepared.data.photos, prepared.data.truth
    rows = {"train": photos.train, "validation": photos.held_out, "test": prepared.test}
    used = {split: part for split, part in rows.items() if len(part)}
    codes = {
        split: encode_rows(model.sae.cpu(), _embedded(tower.cpu().eval(), prepared, views, part))
        for split, part in used.items()
    }
    known = ProbeConfig.__dataclass_fields__
    config = ProbeConfig(**{k: v for k, v in model.cbm.config.items() if k in known})
    trained = trained_without(
        forbidden, codes, {split: truth[part].argmax(1) for split, part in used.items()},
        model.classes, config,
    )  # fmt: skip
    encoder = load_encoder(spec, device="cpu", precision="fp32")
    inputs = {
        "encoder": encoder.fingerprint,
        "sae": load_manifest(workspace.sae, "sae").fingerprint,
        "dictionary": load_manifest(workspace.dictionary, "dictionary").fingerprint,
        "embeddings": fingerprint([encoder.fingerprint, sorted(used)]),
    }
    recorded = {**model.cbm.config, "encoder": spec, "removed": sorted(forbidden)}
    save_cbm(workspace.cbm, trained, config=recorded, inputs=inputs)


@torch.inference_mode()
def _embedded(tower: nn.Module, prepared: Prepared, views: Views, rows: np.ndarray) -> Tensor:
    parts = [tower(pixels) for _, pixels in whole(prepared.data.photos, views, "cpu", rows)]
    return torch.cat(parts).float()


def _copied(source: Path, target: Path) -> None:
    """An artifact as it is, in place of whatever stood there."""
    manifest = load_manifest(source)
    with create_artifact(
        target, manifest.kind, config=manifest.config, inputs=manifest.inputs  # type: ignore[arg-type]
    ) as draft:  # fmt: skip
        for name in manifest.files:
            (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, draft.path / name)
        draft.metrics.update(manifest.metrics)
