"""Localisation of attribution methods: grids of photos, maps, scores, figures and a report."""

import io
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load, save
from torch import Tensor

from dncbm.artifacts import (
    create_artifact,
    fingerprint,
    load_manifest,
    require_replaceable,
    write_bytes,
)
from dncbm.attribution.aggregate import MapStore
from dncbm.attribution.catalogue import method_named
from dncbm.attribution.chain import Chain
from dncbm.attribution.localisation import Plan, grids_of, plan_grids
from dncbm.attribution.places import automatic_layers, resolved_layer
from dncbm.attribution.scores import cell_masks, chance, mass_ratio
from dncbm.attribution.settings import Setting, setting_named
from dncbm.data.sources import open_source
from dncbm.errors import InvalidInput, UnknownName
from dncbm.report.localisation import LocalisationReport, Part, write_report
from dncbm.training.progress import Progress, no_progress
from pipelines.localised_models import Subject, TargetsOf, open_subject
from pipelines.localised_photos import Candidates, Choice, PhotoReader, candidates
from pipelines.workspace import is_current

_log = logging.getLogger(__name__)
KIND = "localisation"
SCORES = "scores.parquet"
SETTINGS = ("gridpg", "difull", "dipart")
METHODS = ("gradient", "input_x_gradient", "integrated_gradients", "grad_cam", "layer_cam")
"""By default; `bcos` beside them where it is exact."""
LAYERS = ("input", "middle", "final")
_STEPS = {"integrated_gradients": {"steps": 20}}
"""Options of methods: 20 steps as in the paper's code."""
_AT_ONCE = 4
"""Pictures at a time."""
_EXAMPLE = 224
"""Largest side of a map that is shown as an example."""


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


@dataclass(frozen=True, slots=True)
class _Task:
    """One method at one layer in one setting: the unit that is resumed."""

    setting: Setting
    plan: Plan
    method: str
    layer: str
    """As it was asked for."""
    module: str | None
    """Its name in the network; None is the input."""
    file: Path
    """Without suffix."""

    def label(self) -> dict[str, Any]:
        """What the rows of its maps have in common."""
        return {
            "method": self.method, "layer": self.layer, "module": self.module or "",
            "setting": self.setting.name, "side": self.setting.side,
        }  # fmt: skip


class _Done(NamedTuple):
    """What a task came to."""

    rows: list[dict[str, Any]]
    arrays: dict[str, Tensor]
    reason: str
    """Why the method is not defined there; empty if it is."""


def localise_stage(  # noqa: PLR0913 - what a run is made of
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
    classes = sorted({r.label for r in source.records if r.label is not None})
    subject = open_subject(model, classes, config.targets, device)
    recorded = asdict(config) | {"model": model}
    inputs = {"photos": source.fingerprint, "model": subject.fingerprint}
    if is_current(out, KIND, recorded, inputs):
        return result_of(out)
    choice = Choice(most=config.photos, confidence=config.confidence, seed=config.seed)
    found = candidates(subject, source, choice, progress)
    tasks, undefined = _tasks(found, config, _work(out), fingerprint([recorded, inputs]))
    done = list(_all_done(tasks, found.reader, found.subject, config, progress))
    _write(out, recorded, inputs, found, tasks, done, undefined)
    shutil.rmtree(_work(out), ignore_errors=True)
    return result_of(out)


def result_of(out: Path) -> dict[str, Any]:
    """What the command prints of an artifact: means, and where everything lies."""
    metrics = load_manifest(out, KIND).metrics
    figures = {name: str(out / file) for name, file in metrics["figures"].items()}
    return {
        "localisation": str(out), **metrics, "figures": figures, "scores": str(out / SCORES),
        "report": str(out / "report.html"),
    }  # fmt: skip


def _work(out: Path) -> Path:
    """Where finished tasks wait for the others."""
    return out.parent / f".{out.name}.{KIND}"


def _tasks(
    found: Candidates, config: LocaliseConfig, work: Path, mark: str
) -> tuple[list[_Task], list[dict[str, Any]]]:
    """Everything that is to be measured, and the settings that the network does not have."""
    subject = found.subject
    network, sample = subject.network, found.reader.pixels([0])
    automatic = automatic_layers(network, sample)
    layers = {name: resolved_layer(network, name, automatic) for name in config.layers}
    tasks, undefined = [], []
    for side in config.sides:
        for name in config.settings:
            setting = setting_named(name, network, side)
            plan = plan_grids(
                found.labels, found.confidences, side=side, count=config.grids, seed=config.seed,
                corners=setting.corners,
            )  # fmt: skip
            try:
                setting.check(sample.repeat(1, 1, side, side))
            except InvalidInput as error:
                undefined.append({"setting": name, "side": side, "reason": str(error)})
                continue
            for method in _methods(subject, config):
                for layer, module in layers.items():
                    key = fingerprint([mark, name, side, method, layer])[:16]
                    tasks.append(_Task(setting, plan, method, layer, module, work / key))
    return tasks, undefined


def _methods(subject: Subject, config: LocaliseConfig) -> tuple[str, ...]:
    return config.methods or (METHODS + (("bcos",) if subject.is_bcos else ()))


def _all_done(
    tasks: Sequence[_Task], reader: PhotoReader, subject: Subject, config: LocaliseConfig,
    progress: Progress,
) -> Iterator[_Done]:  # fmt: skip
    total = len(tasks) * config.grids
    for number, task in enumerate(tasks):
        found = _read(task.file)
        if found is None:

            def tell(grids: int, before: int = number * config.grids) -> None:
                progress("localise", before + grids, total)

            found = _measured(task, reader, subject, config, tell)
            _keep(task.file, found)
        progress("localise", (number + 1) * config.grids, total)
        yield found


def _measured(
    task: _Task, reader: PhotoReader, subject: Subject, config: LocaliseConfig, tell: Any
) -> _Done:
    """Maps and scores of one task; a method that cannot be had there says why."""
    if task.method == "bcos" and not subject.is_bcos:
        return _Done([], {}, "W(x) is exact in B-cos networks only.")
    stores = {kernel: MapStore() for kernel in config.kernels}
    rows: list[dict[str, Any]] = []
    arrays: dict[str, Tensor] = {}
    try:
        for pictures, maps in _maps(task, reader):
            for kernel in config.kernels:
                rows += _scored(task, reader, subject, maps, pictures, kernel, stores[kernel])
                if f"example {kernel}" not in arrays:
                    arrays[f"example {kernel}"] = _example(maps[0, :1], kernel, pictures.size)
            tell(len(rows) // (len(task.setting.scored) * len(config.kernels)))
    except InvalidInput as error:
        return _Done([], {}, str(error))
    for kernel, store in stores.items():
        mean = store.aggregate()
        arrays[f"maps {kernel}"] = mean.maps.contiguous()
        arrays[f"counts {kernel}"] = torch.tensor(mean.counts)
        arrays[f"normaliser {kernel}"] = torch.tensor(mean.normaliser)
    return _Done(rows, arrays, "")


class _Pictures(NamedTuple):
    first: int
    classes: Tensor
    sources: Tensor
    size: tuple[int, int]


def _maps(task: _Task, reader: PhotoReader) -> Iterator[tuple[_Pictures, Tensor]]:
    """Pictures and the maps of their scored cells, a few at a time."""
    method, setting, first = method_named(task.method).function, task.setting, 0
    for grids in grids_of(task.plan, reader.pixels, at_once=_AT_ONCE):
        maps = method(
            setting, grids.images, setting.targets(grids.classes), layer=task.module,
            **_STEPS.get(task.method, {}),
        )  # fmt: skip
        size = (grids.images.shape[-2], grids.images.shape[-1])
        yield _Pictures(first, grids.classes, grids.sources, size), maps.detach()
        first += len(grids.images)


def _scored(  # noqa: PLR0913 - a batch and where it belongs
    task: _Task, reader: PhotoReader, subject: Subject, maps: Tensor, pictures: _Pictures,
    kernel: int, store: MapStore,
) -> list[dict[str, Any]]:  # fmt: skip
    """One row per map; maps for the top-left cell are kept for the mean maps."""
    cells = list(task.setting.scored)
    masks = cell_masks(task.setting.side, *pictures.size)[cells].to(maps.device)
    positive = Chain(size=pictures.size, smooth=kernel)(maps)
    scores = mass_ratio(positive, masks)
    inside = (positive[:, 0] * masks[0]).sum(dim=(-2, -1))
    store.add(positive[:, 0], scores[:, 0], inside)
    rows = []
    for g, line in enumerate(scores.cpu().tolist()):
        ids = [reader.ids[photo] for photo in pictures.sources[g].tolist()]
        for t, cell in enumerate(cells):
            rows.append(
                task.label() | {
                    "smooth": kernel, "grid": pictures.first + g, "cell": cell,
                    "class": subject.names[int(pictures.classes[g, cell])], "score": line[t],
                    "chance": float(chance(masks[t])), "image": ids[cell], "images": ids,
                }
            )  # fmt: skip
    return rows


def _example(maps: Tensor, kernel: int, size: tuple[int, int]) -> Tensor:
    """The signed map of the first picture's first cell."""
    shown = (min(size[0], _EXAMPLE), min(size[1], _EXAMPLE))
    found = Chain(size=shown, positive=False, smooth=kernel)(maps[None])[0, 0]
    return found.float().cpu().contiguous()


def _keep(file: Path, done: _Done) -> None:
    """Rows last: they say that the task is done."""
    write_bytes(file.with_suffix(".safetensors"), save(done.arrays))
    table = pa.Table.from_pylist(done.rows, schema=_SCHEMA)
    table = table.replace_schema_metadata({"reason": done.reason})
    stream = io.BytesIO()
    pq.write_table(table, stream)
    write_bytes(file.with_suffix(".parquet"), stream.getvalue())


def _read(file: Path) -> _Done | None:
    """What an earlier run kept of a task."""
    try:
        table = pq.read_table(file.with_suffix(".parquet"))
        arrays = load(file.with_suffix(".safetensors").read_bytes())
    except (OSError, ValueError, pa.ArrowInvalid):
        return None
    reason = (table.schema.metadata or {}).get(b"reason", b"").decode()
    return _Done(table.to_pylist(), arrays, reason)


_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("method", "layer", "module", "setting")),
        *((name, pa.int32()) for name in ("side", "smooth", "grid", "cell")),
        ("class", pa.string()), ("score", pa.float64()), ("chance", pa.float64()),
        ("image", pa.string()), ("images", pa.list_(pa.string())),
    ]
)  # fmt: skip


def _write(  # noqa: PLR0913 - an artifact and all that is in it
    out: Path, recorded: dict[str, Any], inputs: dict[str, str], found: Candidates,
    tasks: Sequence[_Task], done: Sequence[_Done], undefined: list[dict[str, Any]],
) -> None:  # fmt: skip
    """The artifact: scores, figures, report and the means as metrics."""
    parts: list[Part] = []
    for task, result in zip(tasks, done, strict=True):
        if result.reason:
            undefined.append(task.label() | {"reason": result.reason})
        else:
            parts += _parts(task, result)
    if not parts:
        raise InvalidInput(
            f"Nothing could be measured: {undefined[0]['reason']}"
            if undefined
            else "Nothing could be measured: no method is left."
        )
    pictures = {}
    for task in tasks:
        label = (task.setting.name, task.setting.side)
        if label not in pictures:
            pictures[label] = _picture(task, found)
    report = LocalisationReport(
        model=found.subject.spec, targets=found.subject.targets, parts=tuple(parts),
        undefined=tuple(undefined), pictures=pictures, photos=len(found.labels), seen=found.seen,
        recipe=recorded, fingerprints=inputs,
    )  # fmt: skip
    rows = [row for result in done for row in result.rows]
    with create_artifact(out, "localisation", config=recorded, inputs=inputs) as draft:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), draft.path / SCORES)
        figures = write_report(report, draft.path)
        draft.metrics.update(
            {
                "model": found.subject.spec, "photos": len(found.labels), "seen": found.seen,
                "broken": found.broken, "means": [part.summary() for part in parts],
                "undefined": undefined, "figures": figures,
            }
        )  # fmt: skip


def _parts(task: _Task, result: _Done) -> Iterator[Part]:
    kernels = sorted({row["smooth"] for row in result.rows})
    for kernel in kernels:
        mine = [row for row in result.rows if row["smooth"] == kernel]
        yield Part(
            method=task.method, layer=task.layer, module=task.module or "",
            setting=task.setting.name, side=task.setting.side, smooth=kernel,
            scores=np.array([row["score"] for row in mine]), chance=mine[0]["chance"],
            means=result.arrays[f"maps {kernel}"].numpy(),
            counts=tuple(result.arrays[f"counts {kernel}"].tolist()),
            normaliser=float(result.arrays[f"normaliser {kernel}"]),
            example=result.arrays[f"example {kernel}"].numpy(),
        )  # fmt: skip


def _picture(task: _Task, found: Candidates) -> tuple[np.ndarray, str]:
    """The first picture of a setting, and the class of its first cell."""
    side = task.setting.side
    levels = found.reader.levels(task.plan.sources[0].tolist())
    rows = levels.unflatten(0, (side, side)).permute(0, 2, 1, 3, 4)  # r h c w 3
    picture = rows.flatten(0, 1).flatten(1, 2)
    return picture.numpy(), found.subject.names[int(task.plan.classes[0, 0])]


