"""What each stage of a job does, on the directory in which the job works.

Stages are safe to kill and to repeat: each resumes from its own checkpoints, reads back what is
current, and writes artifacts whole or not at all.
"""

import importlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dncbm.artifacts import writing
from dncbm.bcos.recipe import BcosRecipe
from dncbm.database import Database
from dncbm.encoders.clip import load_encoder
from dncbm.errors import ArtifactError, DncbmError
from dncbm.files import sync
from dncbm.recipes import TABLES, Recipe, merged
from dncbm.training.progress import Progress
from pipelines import commands
from pipelines.bcosify import bcosify_stage
from pipelines.embed import embed_stage, open_recipe_source, require_classes, split_records
from pipelines.quickstart import check_choices, render_world
from pipelines.workspace import Workspace

logger = logging.getLogger(__name__)

RAY_ADDRESS = "DNCBM_RAY_ADDRESS"
_LINKED = "embeddings"
"""The large part of a model; no stage that starts from a model writes into it."""

Result = dict[str, Any]
Work = Callable[[Result, Workspace, Progress], Result]


def run_stage(stage: str, job: Result, progress: Progress) -> Result:
    """Do one stage of a job.

    Args:
        stage: one of `dncbm.jobs.checks.PIPELINES`.
        job: the fields of an `Order`, with `id`, `work`, `models` and `database`.
        progress: told how far it is.
    """
    logger.info("stage %s begins", stage)
    result = _STAGES[stage](job, Workspace(Path(job["work"])), progress)
    logger.info("stage %s is done", stage)
    return result


def _embed(job: Result, workspace: Workspace, progress: Progress) -> Result:
    recipe = _on_ray(job["config"])
    if recipe.data is None and recipe.dataset is None:
        recipe = render_world(recipe, workspace.create().root)
    source = open_recipe_source(recipe)
    encoder = load_encoder(recipe.encoder, device=recipe.device, precision=recipe.precision)
    if len(job["stages"]) > len(("embed", "publish")):  # refuse now what a later stage would
        splits = split_records(source, recipe.seed)
        require_classes(source, splits)
        check_choices(recipe, encoder.embed_dim, splits.count("train"))
    workspace.create().write_recipe(recipe)
    embeddings = embed_stage(recipe, source, encoder, workspace.embeddings, progress)
    return {"images": len(embeddings)}


def _on_ray(config: Result) -> Recipe:
    """The recipe; on the cluster that the environment names, unless it says where it runs."""
    return Recipe.of(({"engine": "ray"} if _join_ray() else {}) | config)


def _copy(job: Result, workspace: Workspace, progress: Progress) -> Result:
    """The model to start from, with the recipe's changes; its embeddings are linked."""
    source, changes = Path(job["models"]) / job["config"]["model"], dict(job["config"])
    del changes["model"]
    parts = [path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")]
    draft = workspace.root.parent / ".copy"
    with writing(draft):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for done, path in enumerate(sorted(parts)):
            progress("copy", done, len(parts))
            copy = _link if path.name == _LINKED else shutil.copy2
            shutil.copytree(path, draft / path.name, copy_function=copy)
        progress("copy", len(parts), len(parts))
        shutil.copy2(source / "recipe.json", draft)
        shutil.rmtree(workspace.root, ignore_errors=True)
        os.replace(draft, workspace.root)
    recipe = workspace.read_recipe()
    tables = {name: getattr(recipe, name) for name in TABLES}
    changed = Recipe.of(recipe.as_dict() | merged(tables, changes))
    workspace.create().write_recipe(changed)
    return {"model": job["config"]["model"]}


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _discover(job: Result, workspace: Workspace, progress: Progress) -> Result:
    _join_ray()
    return {"sae": commands.discover(workspace, {}, progress)["sae"]}


def _join_ray() -> bool:
    """Tell Ray the cluster that the environment names; False where it names none."""
    address = os.environ.get(RAY_ADDRESS)
    if address:
        os.environ["RAY_ADDRESS"] = address  # what `ray.init` reads
    return bool(address)


def _name(job: Result, workspace: Workspace, progress: Progress) -> Result:
    commands.name(workspace, {}, progress)
    return {}


def _bottleneck(job: Result, workspace: Workspace, progress: Progress) -> Result:
    return {"accuracy": commands.bottleneck(workspace, {}, progress)["accuracy"]}


def _report(job: Result, workspace: Workspace, progress: Progress) -> Result:
    commands.report(workspace, progress)
    return {}


def _bcosify(job: Result, workspace: Workspace, progress: Progress) -> Result:
    bcosify_stage(BcosRecipe.of(job["config"]), workspace, progress)
    return {}


def _publish(job: Result, workspace: Workspace, progress: Progress) -> Result:
    """Give the directory its name, all at once, and tell the registry."""
    models = Path(job["models"])
    target = models / job["model"]
    if workspace.root.exists():
        if target.exists():
            raise ArtifactError(
                f"{target} was made meanwhile. Remove or rename it, then retry this job: the "
                "finished model waits."
            )
        workspace.clean()
        with writing(target):
            os.replace(workspace.root, target)
            sync(models)
    elif not target.exists():
        raise ArtifactError(f"Neither {workspace.root} nor {target} exists: it was removed.")
    shutil.rmtree(workspace.root.parent, ignore_errors=True)
    _register(target, job["database"], models)
    return {"model": job["model"]}


def _register(path: Path, database: str, models: Path) -> None:
    """Enter the artifacts into the registry, where this installation has one."""
    try:
        store = importlib.import_module("dncbm.registry.store")
    except ModuleNotFoundError:
        return
    opened = Database(database)
    try:
        registry = store.RegistryStore(opened, models)
        whole = (path / "cbm" / "manifest.json").is_file()
        (registry.register if whole else registry.register_artifacts)(path)
    except DncbmError as error:  # the model is there; a scan of the registry finds it
        logger.warning("%s is not registered: %s", path, error)
    finally:
        opened.close()


_STAGES: dict[str, Work] = {
    "embed": _embed,
    "copy": _copy,
    "discover": _discover,
    "name": _name,
    "bottleneck": _bottleneck,
    "report": _report,
    "bcosify": _bcosify,
    "publish": _publish,
}
