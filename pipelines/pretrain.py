"""Contrastive training on photos, or photos with captions, to an encoder that `embed` takes."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from dncbm.artifacts import load_manifest
from dncbm.bcos.store import Blueprint
from dncbm.contrastive.networks import PairsNetwork, new_tower, origin_of, tower_of, views_network
from dncbm.contrastive.recipe import PretrainRecipe, is_new_tower
from dncbm.contrastive.train import Captions, train_pairs, train_views
from dncbm.data.captions import read_captions
from dncbm.data.views import Views
from dncbm.encoders.clip import Encoder, load_encoder, untrained_encoder
from dncbm.encoders.trained import ENCODER, TRAINED, TextTower, save_encoder, trained_folder
from dncbm.encoders.untrained import SCRATCH
from dncbm.errors import InvalidInput
from dncbm.training.loop import Row
from dncbm.training.photos import Photos
from dncbm.training.progress import Progress, no_progress
from dncbm.training.workers import current_workers
from pipelines.bcosify import join_workers, own_device, together
from pipelines.embed import open_recipe_source
from pipelines.pretrain_parts import (
    Setting,
    final_metrics,
    open_photos,
    shifts_of_images,
    shifts_of_texts,
    square_pixels,
    views_of,
)
from pipelines.recipes import Recipe
from pipelines.workspace import Workspace, is_current

_SIZE = 96
"""Pixels of a new tower where nothing is said."""


def pretrain_stage(
    recipe: PretrainRecipe, workspace: Workspace, progress: Progress = no_progress
) -> Row:
    """Train, or go on training, and write the artifact `encoder`; what is current is only read.

    Raises:
        InvalidInput: no photos, no captions where they are needed, or a loss that broke.
        UnknownName: no such model or setting.
        Unavailable: weights that must be fetched, without a network.
    """
    join_workers()
    config = recipe.config()
    source = open_recipe_source(Recipe(data=recipe.data, dataset=recipe.dataset))
    setting = Setting(
        recipe=recipe, config=config, workspace=workspace.create(), source=source,
        device=own_device(recipe.device), progress=progress,
    )  # fmt: skip
    found = _pairs(setting) if config.has_captions else _images(setting)
    embed = f"dncbm embed --encoder {workspace.root} --data PHOTOS --out MODEL"
    return {**found, "encoder": f"{TRAINED}:{workspace.root}", "next": embed}


def _images(setting: Setting) -> Row:
    """Two views of each photo."""
    recipe, config = setting.recipe, setting.config
    model = recipe.named_model(config)
    if recipe.captions:
        raise InvalidInput("nt-xent takes no captions. Leave --captions out, or take --loss clip.")
    encoder = None if is_new_tower(model) else load_encoder(model, device="cpu", precision="fp32")
    inputs = {"photos": setting.source.fingerprint}
    if encoder is not None:
        inputs["model"] = encoder.fingerprint
    if _is_made(setting, inputs):
        return _result(setting)
    preprocess = encoder.preprocess_config if encoder else square_pixels(recipe.size or _SIZE)
    views = views_of(config, preprocess, recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        start = new_tower(model, views.size, **recipe.network) if encoder is None else (
            tower_of(encoder)
        )  # fmt: skip
        photos = open_photos(setting, preprocess)
        network = views_network(start, config.new_loss(len(photos.train)), out=config.projection)
    shifts = shifts_of_images(setting, network, photos, views, trained=encoder is not None)
    network.to(setting.device)
    history = train_views(
        network, photos, config.augmentation(views), config, setting.run(inputs), shifts=shifts
    )
    if current_workers().rank == 0:
        save_encoder(
            setting.path, network.tower, start.blueprint, embed_dim=start.embed_dim,
            preprocess=preprocess, training=setting.choices, inputs=inputs, history=history,
            metrics=final_metrics(network.tower, photos, views, setting, history),
        )  # fmt: skip
        setting.workspace.clean()
    together(setting.device)
    return _result(setting)


def _pairs(setting: Setting) -> Row:
    """Photos and captions."""
    recipe, config = setting.recipe, setting.config
    encoder = _image_text(recipe.named_model(config))
    blueprint, text = origin_of(encoder)
    location = recipe.data or recipe.dataset or ""
    captions = read_captions(location, setting.source, recipe.captions)
    inputs = {
        "photos": setting.source.fingerprint, "captions": captions.fingerprint,
        "model": encoder.fingerprint,
    }  # fmt: skip
    if _is_made(setting, inputs):
        return _result(setting)
    preprocess = encoder.preprocess_config
    views = views_of(config, preprocess, recipe)
    photos = open_photos(setting, preprocess, captions)
    tokens = Captions.of([encoder.tokens(texts) for texts in captions.texts])
    shifts = shifts_of_texts(setting, encoder, captions, photos)
    hidden = max(1, encoder.embed_dim // 4) if config.learns == "adapters" else None
    if hidden is not None:
        if blueprint.family != "encoder" or blueprint.arguments:
            raise InvalidInput(
                f"{encoder.spec} has a tower of its own, behind which no adapter is kept. Take "
                "learns=both or images."
            )
        blueprint = replace(blueprint, arguments={"adapter": hidden})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = PairsNetwork(
            encoder.trainable_model(), config.new_loss(len(photos.train)), learns=config.learns,
            embed_dim=encoder.embed_dim, adapter=hidden,
        )  # fmt: skip
    network.to(setting.device)
    history = train_pairs(
        network, photos, tokens, views, config, setting.run(inputs), shifts=shifts
    )
    if current_workers().rank == 0:
        _save_pairs(setting, network, encoder, photos, views, history, inputs, blueprint, text)
        setting.workspace.clean()
    together(setting.device)
    return _result(setting)


def _save_pairs(  # noqa: PLR0913 - all that an artifact tells
    setting: Setting, network: PairsNetwork, encoder: Encoder, photos: Photos, views: Views,
    history: list[Row], inputs: Mapping[str, str], blueprint: Blueprint, text: TextTower | None,
) -> None:  # fmt: skip
    locked = setting.config.learns == "images" and trained_folder(encoder.spec) is None
    save_encoder(
        setting.path, network.model.visual, blueprint, embed_dim=encoder.embed_dim,
        preprocess=encoder.preprocess_config,
        text=text,
        text_weights=None if locked else network.text_weights(), training=setting.choices,
        inputs=inputs, history=history,
        metrics=final_metrics(network.model.visual, photos, views, setting, history),
    )  # fmt: skip


def _image_text(model: str) -> Encoder:
    """The encoder to train on: with weights, or with those of seed 0 for `scratch:`."""
    scheme, _, name = model.partition(":")
    if scheme == SCRATCH and name:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return untrained_encoder(name)
    encoder = load_encoder(model, device="cpu", precision="fp32")
    if not encoder.has_texts:
        raise InvalidInput(
            f"{model} has no text tower, so captions cannot be compared with its images. Choose "
            "an image-text encoder, or --loss nt-xent."
        )
    encoder.require_exchangeable()
    return encoder


def _is_made(setting: Setting, inputs: Mapping[str, str]) -> bool:
    return is_current(setting.path, ENCODER, {"training": setting.choices}, inputs)


def _result(setting: Setting) -> Row:
    metrics = load_manifest(setting.path, ENCODER).metrics
    return {"artifact": str(setting.path), **metrics}
