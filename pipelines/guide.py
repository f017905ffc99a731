"""A network that is told where to look: trained, chosen among its epochs and weights, judged."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from dncbm.artifacts import fingerprint, load_manifest
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.store import Blueprint, save_bcos
from dncbm.data.views import Views
from dncbm.encoders.spec import GUIDED
from dncbm.guidance.candidates import TOLERANCE, Candidates, choice, tolerance_of
from dncbm.guidance.depths import layer_at
from dncbm.guidance.measure import Measure
from dncbm.guidance.recipe import GuideRecipe
from dncbm.guidance.selection import pareto_front
from dncbm.guidance.task import Attributor, Classes, Task, guiding_method
from dncbm.guidance.train import GuidedTraining, train_guided
from dncbm.training.devices import resolve_device
from dncbm.training.loop import Row
from dncbm.training.photos import Run
from dncbm.training.progress import Progress, no_progress
from pipelines.guided_data import How, Material, Prepared, prepare, read_material
from pipelines.guided_models import open_network
from pipelines.workspace import Workspace, is_current

_SHOWN = ("accuracy", "f1", "map", "worst_group", "epg", "epg_chance", "epg_gain", "iou", "cosine")


def guide_stage(recipe: GuideRecipe, workspace: Workspace, progress: Progress = no_progress) -> Row:
    """Train with guidance, or go on, and write the artifact `guided`; what is current is read.

    Raises:
        InvalidInput: photos or annotations that do not go together, an attribution that cannot be
            guided, or a loss that broke.
        UnknownName: a model, layer or setting that there is not.
        Unavailable: weights that must be fetched, without a network.
    """
    if recipe.scheme is None:
        from pipelines.guide_concepts import guide_concepts_stage

        return guide_concepts_stage(recipe, workspace, progress)
    material = read_material(recipe)
    opened = open_network(recipe, material.classes)
    is_bcos = isinstance(opened.network, ImageModel)
    configs = recipe.configs(multiple=material.multiple, is_bcos=is_bcos)
    for config in configs:
        layer_at(opened.network, config.layer)
        guiding_method(config.attribution, opened.network)
    views = views_of(opened.views, crops=recipe.crops)
    job = Job(
        recipe, workspace, material, opened.blueprint, views, configs,
        {**material.inputs, "model": opened.mark}, progress,
    )  # fmt: skip
    if not job.is_current():
        workspace.create()
        prepared = prepare(material, recipe, How(views.size), workspace.work, progress)
        job.train(prepared, opened.network, Classes)
        workspace.clean()
    return job.result()


def views_of(views: Views, *, crops: bool) -> Views:
    """Random crops and mirrored photos, or whole ones only."""
    if crops:
        return views
    return replace(views, smallest=1.0, longest=1.0, mirrored=False)


@dataclass(frozen=True, slots=True)
class Trained:
    """One training: its weight, and what of it was kept."""

    config: GuidedTraining
    history: list[Row]
    candidates: Candidates


@dataclass(frozen=True, slots=True)
class Job:
    """Where, with what, and the artifact at the end."""

    recipe: GuideRecipe
    workspace: Workspace
    material: Material
    blueprint: Blueprint
    views: Views
    configs: list[GuidedTraining]
    inputs: Mapping[str, str]
    progress: Progress

    @property
    def path(self) -> Path:
        """The artifact."""
        return self.workspace.root / GUIDED

    @property
    def device(self) -> str:
        """Where to train."""
        return resolve_device(self.recipe.device)

    @property
    def training(self) -> dict[str, Any]:
        """All settings, as they are recorded."""
        chosen = asdict(self.recipe)
        places = ("data", "dataset", "annotations", "device", "training", "model")
        settings = {name: value for name, value in chosen.items() if name not in places}
        return settings | {"training": [asdict(config) for config in self.configs]}

    def is_current(self) -> bool:
        """Whether an earlier run made the artifact from the same choices and inputs."""
        config = {
            "blueprint": asdict(self.blueprint), "views": asdict(self.views),
            "classes": list(self.material.classes), "training": self.training,
        }  # fmt: skip
        return is_current(self.path, GUIDED, config, self.inputs)

    def train(
        self, prepared: Prepared, network: nn.Module, task_of: Callable[[], Task]
    ) -> nn.Module:
        """Train once for each weight, choose on validation, judge on the test, write."""
        if len(prepared.data.photos.held_out) == 0:
            raise InvalidInput(
                "No photo is left to choose by: validation photos are a tenth of the annotated "
                "ones. Give more photos, or a validation split of your own."
            )
        trained = [self._trained(config, prepared, network, task_of()) for config in self.configs]
        places = [(one, step) for one in trained for step in sorted(one.candidates.kept())]
        figures = [one.candidates.figures[step] for one, step in places]
        tolerance = self._tolerance(figures, prepared)
        picked = choice(figures, tolerance) if figures else 0
        chosen, step = places[picked]
        guided = deepcopy(network)
        guided.load_state_dict(chosen.candidates.weights(step))
        before, after = (
            self._tested(one, prepared, chosen, task_of(), step) for one in (network, guided)
        )
        candidates = _table(places, figures, picked)
        metrics = {
            "before": before, "after": after, "weight": chosen.config.weight, "step": step,
            "tolerance": tolerance, "candidates": candidates,
            "annotated_photos": prepared.annotated,
            "train_photos": len(prepared.data.photos.train), "test_photos": len(prepared.test),
            "left_out": [[p.where, p.reason] for p in self.material.annotations.errors[:100]],
        }  # fmt: skip
        save_bcos(
            self.path, guided, self.blueprint, self.views, classes=self.material.classes,
            training=self.training, inputs=self.inputs, metrics=metrics, history=chosen.history,
            kind=GUIDED,
        )  # fmt: skip
        return guided

    def _tolerance(self, figures: list[Row], prepared: Prepared) -> float:
        """What of the classification may be lost for better reasons."""
        if self.recipe.tolerance is not None:
            return self.recipe.tolerance
        if not any(self.recipe.weights):
            return 0.0
        return tolerance_of(figures, len(prepared.data.photos.held_out)) if figures else TOLERANCE

    def _trained(
        self, config: GuidedTraining, prepared: Prepared, network: nn.Module, task: Task
    ) -> Trained:
        mark = fingerprint([
            asdict(config), asdict(self.views), asdict(self.blueprint), dict(self.inputs),
            self.training,
        ])  # fmt: skip
        run = Run(
            checkpoint=self.workspace.checkpoint(f"{GUIDED}-{mark[:12]}"), device=self.device,
            purpose=mark, progress=self.progress,
        )  # fmt: skip
        own = deepcopy(network)
        history, found = train_guided(own, prepared.data, self.views, config, run, task=task)
        return Trained(config, history, found)

    def _tested(
        self, network: nn.Module, prepared: Prepared, chosen: Trained, task: Task, step: int
    ) -> Row:
        config, data = chosen.config, prepared.data
        rows = prepared.test if len(prepared.test) else data.photos.held_out
        method, layer = guiding_method(config.attribution, network), layer_at(network, config.layer)
        measure = Measure(
            attributor=Attributor(network.to(self.device).eval(), task, method, layer),
            data=data, views=self.views, device=self.device,
            multiple=self.material.multiple, outside=config.side == "outside",
            threshold=chosen.candidates.figures[step].get("iou_threshold"),
        )  # fmt: skip
        return measure(rows)

    def result(self) -> Row:
        """What the command prints."""
        metrics = load_manifest(self.path, GUIDED).metrics
        return {"guided": str(self.path), **metrics}


def _table(
    places: list[tuple[Trained, int]], figures: list[Row], picked: int
) -> list[dict[str, Any]]:
    """A row per kept state: its weight and step, its figures, whether it is on the front."""
    names = [name for name in _SHOWN if name in figures[0]]
    main = "f1" if "f1" in names else "accuracy"
    points = [[float(row.get(name, 0.0)) for name in (main, "epg", "iou")] for row in figures]
    front = set(pareto_front(points))
    return [
        {
            "weight": one.config.weight, "step": step, "front": place in front,
            "chosen": place == picked, **{name: row[name] for name in names},
        }
        for place, ((one, step), row) in enumerate(zip(places, figures, strict=True))
    ]  # fmt: skip
