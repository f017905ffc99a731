"""Localisation of attribution methods: grids of photos, maps, scores, figures and a report."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from dncbm.artifacts import create_artifact, fingerprint, load_manifest, require_replaceable
from dncbm.attribution.catalogue import method_named
from dncbm.attribution.chain import Chain
from dncbm.attribution.localisation import plan_grids
from dncbm.attribution.places import automatic_layers, resolved_layer
from dncbm.attribution.settings import GridPG, Setting, setting_named
from dncbm.data.annotations import Annotations, read_annotations
from dncbm.data.sources import ImageSource, open_source
from dncbm.errors import InvalidInput, UnknownName
from dncbm.report.localisation import LocalisationReport, Part, write_report
from dncbm.training.progress import Progress, no_progress
from pipelines.localised_boxes import Boxed, boxed_photos
from pipelines.localised_done import SCHEMA, Done
from pipelines.localised_models import Subject, TargetsOf, open_subject
from pipelines.localised_photos import Candidates, Choice, candidates
from pipelines.localised_tasks import Task, all_done, masks_of_cells, parts_of
from pipelines.workspace import is_current

KIND: Final = "localisation"
SCORES = "scores.parquet"
SETTINGS = ("gridpg", "difull", "dipart")
METHODS = ("gradient", "input_x_gradient", "integrated_gradients", "grad_cam", "layer_cam")
"""By default; `bcos` beside them where it is exact."""
LAYERS = ("input", "middle", "final")
_PER_GRID = 4
"""Photos with boxes for each grid that was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocaliseConfig:
    """What is compared on what.

    Raises:
        UnknownName: a setting, method or kind of targets that does not exist.
        InvalidInput: no grid, a side below 2, an even kernel, or a probability outside [0, 1].
    """

    methods: tuple[str, ...] = ()
    """Names of the catalogue; none: `METHODS`, and `bcos` for a B-cos network."""
    layers: tuple[str, ...] = LAYERS
    """`input`, `middle`, `final`, or names of modules."""
    settings: tuple[str, ...] = SETTINGS
    sides: tuple[int, ...] = (2,)
    grids: int = 10
    """Pictures per setting and side."""
    targets: TargetsOf = "classes"
    smooth: tuple[int, ...] = ()
    """Kernels of Gaussian smoothing, in places of the layer, scored beside the plain maps."""
    photos: int = 2000
    """At most so many are looked at."""
    confidence: float = 0.5
    """Lowest probability of the right class; of 0.99 in the paper. Margins keep the best half."""
    seed: int = 0
    boxes: str | None = None
    """Boxes of the photos, as `read_annotations` takes them: whole photos are scored too."""

    def __post_init__(self) -> None:
        """Refuse what cannot be done, before any work."""
        for name in self.settings:
            if name not in SETTINGS:
                raise UnknownName("setting", name, SETTINGS)
        for name in self.methods:
            method_named(name)
        if self.targets not in ("classes", "concepts"):
            raise UnknownName("kind of targets", self.targets, ("classes", "concepts"))
        if not self.settings or not self.layers or not self.sides:
            raise InvalidInput("No setting, layer or side was given; name at least one of each.")
        if self.grids < 1 or self.photos < 1 or min(self.sides) < 2:
            raise InvalidInput(
                f"{self.grids} grids of sides {self.sides} from {self.photos} photos; the rule is "
                "at least 1 grid, 1 photo and sides of 2 cells."
            )
        if not 0 <= self.confidence <= 1:
            raise InvalidInput(f"confidence is {self.confidence}; the rule is from 0 to 1.")
        for kernel in self.smooth:
            Chain(smooth=kernel)

    @property
    def kernels(self) -> tuple[int, ...]:
        """Of smoothing; 1 is none."""
        return tuple(dict.fromkeys((1, *self.smooth)))


def localise_stage(
    data: str, out: Path, config: LocaliseConfig, *, model: str = "mini", dataset: bool = False,
    device: str = "auto", progress: Progress = no_progress,
) -> dict[str, Any]:  # fmt: skip
    """Measure attribution methods, and write the artifact `localisation`; see the module.

    A run that was interrupted goes on with the methods that are not yet measured. An artifact of
    the same choices and inputs is only read.

    Args:
        data: photos, as `open_source` takes them.
        out: directory of the artifact.
        config: what is compared.
        model: see `open_subject`.
        dataset: `data` is the name of a data set.
        device: where the network runs.
        progress: told of photos and of pictures.

    Raises:
        InvalidInput: too few photos, or a model that does not fit them.
        UnknownName: a layer that does not exist; with the nearest names.
        ArtifactError: `out` holds something else.
    """
    require_replaceable(out)
    source = open_source(data, dataset=dataset)
    known = read_annotations(config.boxes, photos=source) if config.boxes else None
    subject = open_subject(model, _classes(source, known), config.targets, device)
    recorded = asdict(config) | {"model": model}
    inputs = {"photos": source.fingerprint, "model": subject.fingerprint}
    if known is not None:
        inputs["boxes"] = known.fingerprint
    if is_current(out, KIND, recorded, inputs):
        return result_of(out)
    choice = Choice(most=config.photos, confidence=config.confidence, seed=config.seed)
    work = _Work(config, _folder(out), fingerprint([recorded, inputs]))
    tasks: list[Task] = []
    if known is not None:
        boxed = boxed_photos(
            subject, source, known, most=_PER_GRID * config.grids, seed=config.seed
        )
        tasks += _box_tasks(subject, boxed, work)
    found, undefined = _candidates(subject, source, choice, progress, needed=known is None)
    if found is not None:
        tasks += _grid_tasks(found, work, undefined)
    done = list(all_done(tasks, config.kernels, progress))
    counts = {"photos": 0, "seen": 0, "broken": 0} if found is None else found.counts()
    _write(out, _Written(recorded, inputs, subject, counts, undefined), tasks, done, config.kernels)
    shutil.rmtree(_folder(out), ignore_errors=True)
    return result_of(out)


def result_of(out: Path) -> dict[str, Any]:
    """What the command prints of an artifact: means, and where everything lies."""
    metrics = load_manifest(out, KIND).metrics
    figures = {name: str(out / file) for name, file in metrics["figures"].items()}
    return {
        "localisation": str(out), **metrics, "figures": figures, "scores": str(out / SCORES),
        "report": str(out / "report.html"),
    }  # fmt: skip


def _folder(out: Path) -> Path:
    """Where finished tasks wait for the others."""
    return out.parent / f".{out.name}.{KIND}"


def _classes(source: ImageSource, known: Annotations | None) -> list[str]:
    """Of the photos; where these have none, of their boxes."""
    found = sorted({record.label for record in source.records if record.label is not None})
    return found if len(found) > 1 or known is None else sorted(known.labels)


def _candidates(
    subject: Subject, source: ImageSource, choice: Choice, progress: Progress, *, needed: bool
) -> tuple[Candidates | None, list[dict[str, Any]]]:
    """Photos for grids; where boxes are scored too, none is no error but told."""
    try:
        return candidates(subject, source, choice, progress), []
    except InvalidInput as error:
        if needed:
            raise
        return None, [{"setting": "grids", "side": 2, "reason": str(error)}]


@dataclass(frozen=True, slots=True)
class _Work:
    """What the tasks are made from, and where they are kept."""

    config: LocaliseConfig
    folder: Path
    mark: str
    """Fingerprint of all that decides the result."""

    def tasks(self, name: str, setting: Setting, boxed: Boxed) -> Iterator[Task]:
        """Every method at every layer."""
        config, subject = self.config, boxed.reader.subject
        network, sample = subject.network, boxed.reader.pixels([0])
        automatic = automatic_layers(network, sample)
        layers = {layer: resolved_layer(network, layer, automatic) for layer in config.layers}
        for method in config.methods or (METHODS + (("bcos",) if subject.is_bcos else ())):
            for layer, module in layers.items():
                key = fingerprint([self.mark, name, setting.side, method, layer])[:16]
                yield Task(
                    name=name, setting=setting, plan=boxed.plan, reader=boxed.reader,
                    masks=boxed.masks, method=method, layer=layer, module=module,
                    file=self.folder / key,
                )  # fmt: skip


def _grid_tasks(found: Candidates, work: _Work, undefined: list[dict[str, Any]]) -> Iterator[Task]:
    """Those of grids; settings that the network does not have are told."""
    config, network = work.config, found.subject.network
    sample = found.reader.pixels([0])
    for side in config.sides:
        for name in config.settings:
            setting = setting_named(name, network, side)
            try:
                plan = plan_grids(
                    found.labels, found.confidences, side=side, count=config.grids,
                    seed=config.seed, corners=setting.corners,
                )  # fmt: skip
                setting.check(sample.repeat(1, 1, side, side))
            except InvalidInput as error:
                undefined.append({"setting": name, "side": side, "reason": str(error)})
                continue
            yield from work.tasks(
                name, setting, Boxed(found.reader, plan, masks_of_cells(setting))
            )  # fmt: skip


def _box_tasks(subject: Subject, boxed: Boxed, work: _Work) -> Iterator[Task]:
    """Those of whole photos with boxes: pictures of one cell."""
    yield from work.tasks("boxes", GridPG(subject.network, 1), boxed)


class _Written(NamedTuple):
    """What an artifact says of itself."""

    recorded: dict[str, Any]
    inputs: dict[str, str]
    subject: Subject
    counts: dict[str, int]
    undefined: list[dict[str, Any]]


def _write(
    out: Path, about: _Written, tasks: Sequence[Task], done: Sequence[Done],
    kernels: Sequence[int],
) -> None:  # fmt: skip
    """The artifact: scores, figures, report and the means as metrics."""
    parts: list[Part] = []
    undefined = list(about.undefined)
    for task, result in zip(tasks, done, strict=True):
        if result.reason:
            undefined.append(task.label() | {"reason": result.reason})
        else:
            parts += parts_of(task, result, kernels)
    if not parts:
        reason = undefined[0]["reason"] if undefined else "no method is left."
        raise InvalidInput(f"Nothing could be measured: {reason}")
    first = {(task.name, task.setting.side): task for task in reversed(tasks)}
    report = LocalisationReport(
        model=about.subject.spec, targets=about.subject.targets, parts=tuple(parts),
        undefined=tuple(undefined), photos=about.counts["photos"], seen=about.counts["seen"],
        pictures={panel: task.picture() for panel, task in first.items()},
        recipe=about.recorded, fingerprints=about.inputs,
    )  # fmt: skip
    rows = [row for result in done for row in result.rows]
    with create_artifact(out, KIND, config=about.recorded, inputs=about.inputs) as draft:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), draft.path / SCORES)
        figures = write_report(report, draft.path)
        means = [part.summary() for part in parts]
        draft.metrics.update(
            {"model": about.subject.spec, **about.counts, "means": means, "undefined": undefined,
             "figures": figures}
        )  # fmt: skip
