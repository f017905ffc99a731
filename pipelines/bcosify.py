"""A trained network to its B-cos form: encoders learn from themselves, classifiers from labels."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from dncbm.artifacts import fingerprint, load_manifest
from dncbm.bcos.convert import ConvertOptions, clamp_exponents, convert, set_b
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.originals import open_classifier, parse_classifier
from dncbm.bcos.recipe import SCRATCH, BcosRecipe
from dncbm.bcos.store import Blueprint, save_bcos
from dncbm.bcos.train import TrainingConfig, train_classifier, train_student
from dncbm.data.pixels import Pixels, decoded
from dncbm.data.sources import ImageSource
from dncbm.data.views import Views
from dncbm.encoders.clip import Encoder, load_encoder
from dncbm.encoders.spec import BCOS
from dncbm.errors import InvalidInput
from dncbm.training.devices import resolve_device
from dncbm.training.loop import Row
from dncbm.training.photos import Photos, Run
from dncbm.training.progress import Progress, no_progress
from dncbm.training.workers import current_workers
from pipelines.embed import open_recipe_source, require_classes, split_records
from pipelines.recipes import PHOTO_TEMPLATES, Recipe
from pipelines.workspace import Workspace, is_current

_SCRATCH_SIZE = 224
_ANNEALED_FOR = 0.5
"""Share of the updates over which B rises to its end, where it is annealed."""


def bcosify_stage(
    recipe: BcosRecipe, workspace: Workspace, progress: Progress = no_progress
) -> Row:
    """Train, or go on training, and write the artifact `bcos`; what is current is only read.

    Raises:
        InvalidInput: no photos, one class, unknown names, or a loss that broke.
        Unavailable: weights that must be fetched, without a network.
    """
    join_workers()
    config = recipe.config()
    source = open_recipe_source(Recipe(data=recipe.data, dataset=recipe.dataset))
    workspace.create()
    if recipe.kind == "encoder":
        return _bcosify_encoder(recipe, config, source, workspace, progress)
    return _bcosify_classifier(recipe, config, source, workspace, progress)


def _bcosify_encoder(
    recipe: BcosRecipe, config: TrainingConfig, source: ImageSource, workspace: Workspace,
    progress: Progress,
) -> Row:  # fmt: skip
    device = _device(recipe)
    model = load_encoder(recipe.model, device=device, precision="fp32")
    teacher = model
    if recipe.teacher is not None and recipe.teacher != recipe.model:
        teacher = load_encoder(recipe.teacher, device=device, precision="fp32")
    _require_same_pixels(model, teacher)
    if len(set(model.image_size)) > 1 or recipe.size not in (None, model.image_size[0]):
        raise InvalidInput(f"{recipe.model} takes pixels of {model.image_size}, and no others.")
    preprocess = model.preprocess_config
    views = Views(
        size=model.image_size[0], mean=tuple(preprocess["mean"]), std=tuple(preprocess["std"])
    )
    conversion = recipe.conversion()
    inputs = {
        "model": model.fingerprint, "teacher": teacher.fingerprint, "photos": source.fingerprint,
    }  # fmt: skip
    blueprint = Blueprint(family="encoder", name=recipe.model, conversion=conversion)
    job = _Job(workspace, blueprint, views, config, inputs, (), device, progress)
    if not job.is_current():
        pixels = _decoded(source, job, model)
        photos, classes = labelled_photos(pixels, split_records(source, recipe.seed))
        texts = model.encode_texts(classes, templates=PHOTO_TEMPLATES) if classes else None
        student = job.converted(model.image_tower())
        history = train_student(
            student, teacher.image_tower(), photos, views, config, job.run(student), texts=texts
        )
        job.save(student, history, photos)
        together(job.device)
    spec = f"{BCOS}:{workspace.root}"
    embed = f"dncbm embed --encoder {spec} --data PHOTOS --out MODEL"
    return {**job.result(), "encoder": spec, "next": embed}


def _bcosify_classifier(
    recipe: BcosRecipe, config: TrainingConfig, source: ImageSource, workspace: Workspace,
    progress: Progress,
) -> Row:  # fmt: skip
    if recipe.teacher is not None:
        raise InvalidInput(
            f"{recipe.model} is a classifier, which learns from labels. Leave --teacher out, or "
            "give an image-text encoder as --model."
        )
    splits = split_records(source, recipe.seed)
    require_classes(source, splits)
    classes = tuple(sorted({r.label for r in source.records if r.label is not None}))
    network, blueprint, views = _classifier(recipe, len(classes))
    inputs = {"photos": source.fingerprint, "model": weights_mark(network)}
    job = _Job(
        workspace, blueprint, views, config, inputs, classes, _device(recipe), progress
    )  # fmt: skip
    if not job.is_current():
        photos, _ = labelled_photos(_decoded(source, job, None), splits)
        student = network if blueprint.conversion is None else job.converted(network)
        history = train_classifier(student, photos, views, config, job.run(student))
        job.save(student, history, photos)
        together(job.device)
    return job.result()


def _classifier(recipe: BcosRecipe, num_classes: int) -> tuple[nn.Module, Blueprint, Views]:
    """The network before conversion, or one of ours that needs none."""
    scheme, _, name = recipe.model.partition(":")
    if scheme == SCRATCH:
        arguments = {"num_classes": num_classes, "b": recipe.b}
        blueprint = Blueprint(family=SCRATCH, name=name, arguments=arguments)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            return blueprint.build(), blueprint, Views(size=recipe.size or _SCRATCH_SIZE)
    spec = parse_classifier(recipe.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)  # a head of another width begins anew
        network, views = open_classifier(spec, num_classes)
    blueprint = Blueprint(
        family=spec.family, name=spec.name, arguments={"num_classes": num_classes},
        conversion=recipe.conversion(num_classes),
    )  # fmt: skip
    return network, blueprint, replace(views, size=recipe.size or views.size)


@dataclass(frozen=True, slots=True)
class _Job:
    """What both kinds of training have in common: where, with what, and the artifact at the end."""

    workspace: Workspace
    blueprint: Blueprint
    views: Views
    config: TrainingConfig
    inputs: dict[str, str]
    classes: tuple[str, ...]
    device: str
    progress: Progress

    @property
    def mark(self) -> str:
        """Fingerprint of all that decides the result."""
        choices = [asdict(self.blueprint), asdict(self.views), asdict(self.config)]
        return fingerprint([*choices, self.inputs, self.classes])

    @property
    def path(self) -> Path:
        """The artifact."""
        return self.workspace.root / BCOS

    def is_current(self) -> bool:
        """Whether an earlier run made the artifact from the same choices and inputs."""
        config = {
            "blueprint": asdict(self.blueprint), "views": asdict(self.views),
            "classes": list(self.classes), "training": asdict(self.config),
        }  # fmt: skip
        return is_current(self.path, BCOS, config, self.inputs)

    def converted(self, network: nn.Module) -> ImageModel:
        """The network to train; where B is annealed, with B at its start."""
        options = ConvertOptions(**self.blueprint.conversion or {})
        model = convert(network.cpu().eval(), options)
        return model.requires_grad_(True).to(memory_format=torch.channels_last)

    def run(self, network: nn.Module) -> Run:
        """Where training resumes, and what changes from step to step."""
        return Run(
            checkpoint=self.workspace.checkpoint(f"{BCOS}-{self.mark[:12]}"), device=self.device,
            purpose=self.mark, on_step=_on_step(network, self.blueprint), progress=self.progress,
        )  # fmt: skip

    def save(self, network: nn.Module, history: list[Row], photos: Photos) -> None:
        """Write the artifact; the first of several workers does."""
        if current_workers().rank > 0:
            return
        held_out = {k: v for row in history for k, v in row.items() if k.startswith("held_out_")}
        counts = {"train_photos": len(photos.train), "held_out_photos": len(photos.held_out)}
        save_bcos(
            self.path, network, self.blueprint, self.views, classes=self.classes,
            training=asdict(self.config), inputs=self.inputs, metrics=held_out | counts,
            history=history,
        )  # fmt: skip
        self.workspace.clean()

    def result(self) -> Row:
        """What the command prints."""
        return {"bcos": str(self.path), **load_manifest(self.path, BCOS).metrics}


def _on_step(network: nn.Module, blueprint: Blueprint) -> Callable[[int, int], None] | None:
    """Raises an annealed B to its end; keeps a learnable one at 1 or above."""
    options = blueprint.conversion or {}
    if options.get("b_mode") == "annealed":
        end = float(options["b"])

        def anneal(step: int, steps: int) -> None:
            share = min(1.0, step / max(1.0, _ANNEALED_FOR * (steps - 1)))
            set_b(network, 1.0 + (end - 1.0) * share)

        return anneal
    if options.get("b_mode") == "learnable":
        return lambda step, steps: clamp_exponents(network)
    return None


def _decoded(source: ImageSource, job: _Job, encoder: Encoder | None) -> Pixels:
    """The photos at the network's size; the first worker decodes, the others find them done."""
    how: dict[str, Any] = {"size": job.views.size}
    if encoder is not None:
        how |= {"resize": encoder.preprocess.resize, "geometry": encoder.preprocess_config}
    workers = current_workers()
    if workers.rank == 0:
        decoded(source, job.workspace.work, progress=job.progress, **how)
    workers.smallest(torch.zeros((), device=job.device))
    return decoded(source, job.workspace.work, **how)


def labelled_photos(pixels: Pixels, splits: Sequence[str]) -> tuple[Photos, tuple[str, ...]]:
    """What to train on and what to measure on, and the class names; both without labels too."""
    rows, dealt = pixels.usable(), np.array(splits)
    train, held_out = (rows[dealt[rows] == name] for name in ("train", "test"))
    names = [record.label for record in pixels.records]
    classes = tuple(sorted({name for name in names if name is not None}))
    if len(classes) < 2:
        return Photos(images=pixels.images, train=train, held_out=held_out), ()
    index = {name: place for place, name in enumerate(classes)}
    labels = np.array([-1 if name is None else index[name] for name in names])
    known = held_out[labels[held_out] >= 0]
    return Photos(images=pixels.images, train=train, held_out=known, labels=labels), classes


def _require_same_pixels(model: Encoder, teacher: Encoder) -> None:
    if model.preprocess_config != teacher.preprocess_config:
        raise InvalidInput(
            f"{model.spec} and its teacher {teacher.spec} take other pixels (size, mean, std or "
            "interpolation). Choose a teacher with the same preprocessing."
        )
    if model.embed_dim != teacher.embed_dim:
        raise InvalidInput(
            f"{model.spec} has embeddings of width {model.embed_dim}, its teacher {teacher.spec} "
            f"of {teacher.embed_dim}. Choose a teacher of the same width."
        )


def weights_mark(network: nn.Module) -> str:
    """Fingerprint of the weights that training begins with."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _device(recipe: BcosRecipe) -> str:
    return own_device(recipe.device)


def own_device(name: str) -> str:
    """One GPU per worker."""
    device = resolve_device(name)
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "cuda" and local and dist.is_initialized() else device


def together(device: str) -> None:
    """Wait for the first worker, which writes what all of them read next."""
    current_workers().smallest(torch.zeros((), device=device))


def join_workers() -> None:
    """Meet the other processes that `torchrun` started, if it did."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and dist.is_available() and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
