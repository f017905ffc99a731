"""What a job can be, checked when it is submitted, with the errors of the command line."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dncbm.errors import InvalidInput, UnknownName
from dncbm.jobs.confine import confined
from dncbm.jobs.places import Places
from dncbm.jobs.records import Order
from dncbm.recipes import Recipe, located_network, naming_config, probe_config, sae_config

_FROM_SAE = ("discover", "name", "bottleneck", "report", "publish")
PIPELINES: dict[str, tuple[str, ...]] = {
    "discover": ("embed", *_FROM_SAE),
    "embed": ("embed", "publish"),
    "sae": ("copy", *_FROM_SAE),
    "name": ("copy", *_FROM_SAE[1:]),
    "bottleneck": ("copy", *_FROM_SAE[2:]),
    "report": ("copy", *_FROM_SAE[3:]),
    "bcosify": ("bcosify", "publish"),
}
"""Stages of each pipeline. Those that begin with `copy` start from an existing model, and run the
stages that follow too: a model of which a part is stale is not published."""
OF_EMBED = (
    "data", "dataset", "encoder", "precision", "backend", "engine", "workers", "batch_size",
)  # fmt: skip
"""Fields of a recipe that decide how embeddings are made, and what they are."""
_SIZES = ((512, 1_000_000), (64, 64))
"""Widths and numbers of rows to try a configuration with, while the true ones are not known."""


def checked(
    name: str,
    pipeline: str,
    config: Mapping[str, Any],
    places: Places,
    *,
    base: Path | None = None,
) -> Order:
    """The order of a job whose every choice is known to be possible.

    Args:
        name: from which the model's directory is named.
        pipeline: one of `PIPELINES`.
        config: fields of a recipe.
        places: where jobs read and write.
        base: folder from which relative paths are taken, of a caller who may read everything;
            None confines the job to the data folder.

    Raises:
        UnknownName: a pipeline, field, preset or encoder that there is not.
        InvalidInput: a value that breaks a rule.
    """
    if pipeline not in PIPELINES:
        raise UnknownName("pipeline", pipeline[:100], PIPELINES)
    stages, values = PIPELINES[pipeline], dict(config)
    if stages[0] == "copy":
        _check_existing(values, places)
        source = values.pop("model")
        values = {"model": source, **_allowed(values, places, base, _recipe)}
    elif pipeline == "bcosify":
        values = _allowed(values, places, base, _bcos)
    else:
        values = _allowed(values, places, base, _recipe)
    return Order(name, pipeline, places.new_model(name), stages, values)


def _allowed(
    values: dict[str, Any],
    places: Places,
    base: Path | None,
    check: Callable[[dict[str, Any], Path | None], dict[str, Any]],
) -> dict[str, Any]:
    found = check(values, base)  # types first: paths are texts from here on
    if base is None:
        found = confined(found, places)
    if check is _recipe:
        _check_encoder(found.get("encoder", "mini"))
    return found


def _check_existing(values: Mapping[str, Any], places: Places) -> None:
    """Rules of a pipeline that starts from a model."""
    model = values.get("model")
    if not isinstance(model, str):
        raise InvalidInput("Name the model to start from: model = 'NAME'.")
    places.existing_model(model)
    fixed = [name for name in OF_EMBED if name in values]
    if fixed:
        raise InvalidInput(
            f"{', '.join(fixed)} cannot be changed here: the embeddings of {model!r} are used as "
            "they are. Submit the pipeline 'discover' for others."
        )


def _recipe(values: dict[str, Any], base: Path | None) -> dict[str, Any]:
    """The fields, with absolute paths where there is a base, of a possible recipe."""
    recipe = Recipe.of(values)
    _possible([partial(sae_config, recipe, width, rows) for width, rows in _SIZES])
    naming_config(recipe)
    probe_config(recipe)
    if base is None:
        return values
    found = recipe.located(base)
    names = ("data", "dataset", "vocabulary", "encoder")
    return values | {name: getattr(found, name) for name in names if values.get(name)}


def _bcos(values: dict[str, Any], base: Path | None) -> dict[str, Any]:
    from dncbm.bcos.recipe import BcosRecipe  # heavy: not for the other pipelines

    recipe = BcosRecipe.of(values)
    recipe.config()
    recipe.conversion()
    if recipe.data is None and recipe.dataset is None:
        raise InvalidInput("No photos given. Set data or dataset.")
    if base is None:
        return values
    photos = Recipe(data=recipe.data, dataset=recipe.dataset).located(base)
    found = {"data": photos.data, "dataset": photos.dataset}
    for name in ("model", "teacher"):
        found[name] = values.get(name) and located_network(values[name], base)
    return values | {name: value for name, value in found.items() if value}


def _check_encoder(text: str) -> None:
    from dncbm.encoders.spec import BCOS, parse_spec  # heavy
    from dncbm.encoders.trained import trained_folder

    if not text.startswith(f"{BCOS}:") and trained_folder(text) is None:
        parse_spec(text)


def _possible(tries: list[Callable[[], Any]]) -> None:
    """Refuse what fails whatever the sizes; what fits one of them may fit the photos."""
    first: InvalidInput | None = None
    for attempt in tries:
        try:
            attempt()
        except InvalidInput as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first
