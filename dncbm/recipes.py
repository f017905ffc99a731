"""One pipeline run as a value: every choice from photos to classifier."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dncbm.artifacts import MANIFEST
from dncbm.config import check_types, checked_fields
from dncbm.errors import InvalidInput, UnknownName

PHOTO_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "{}")
"""Prompts for class names in the zero-shot baseline, averaged as CLIP's authors do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All choices of one run of the pipeline; defaults suit a laptop and a few thousand photos."""

    data: str | None = None
    """Folder, zip, tar or CSV/Parquet manifest of photos; None renders the concept world."""
    dataset: str | None = None
    """A Hugging Face (`hf:NAME`) or torchvision (`torchvision:CIFAR10`) data set instead."""
    encoder: str = "mini"
    """`mini`, `ARCH:PRETRAINED`, `hf-hub:ORG/NAME` or `ARCH:/path/to/weights.safetensors`."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: the GPU where there is one."""
    precision: str = "auto"
    """`fp32`, `bf16`, `fp16`, or `auto`."""
    backend: str = "torch"
    """What computes the embeddings: `torch`, `torch-bf16`, `onnxruntime`, `openvino`, ..., or
    `auto`: measured on the photos, the fastest that agrees with PyTorch."""
    engine: str = "local"
    """Where embedding runs: `local`, or `ray` for a cluster."""
    workers: int = 2
    """Processes that decode images; 0 decodes in the main process."""
    batch_size: int = 64
    """Images per forward pass of the encoder."""
    vocabulary: str | None = None
    """A word list, one entry per line; None takes the bundled one."""
    blocked_words: tuple[str, ...] = ()
    """Words that no concept may be named with, besides those filtered from the bundled list."""
    sae_preset: str = "default"
    """A preset of `dncbm.sae.presets`: `default`, `dncbm-paper`, `topk`, ..."""
    sae: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the preset's fields, for example `{"num_concepts": 1024}`."""
    train_workers: int = 0
    """Ray Train workers that train the autoencoder in common; 0 trains in this process."""
    stability: int = 0
    """Autoencoders to train with different seeds, this one among them, to measure how much of
    the dictionary comes back: 3, or 0 for none. Each further one costs another training."""
    naming_preset: str = "default"
    """`default` or `paper`."""
    naming: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of `dncbm.naming.config.NamingConfig`, for example `{"centring": "none"}`."""
    probe: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of `dncbm.probe.train.ProbeConfig`, for example `{"solver": "paper"}`."""
    templates: tuple[str, ...] = PHOTO_TEMPLATES
    """Prompts for the zero-shot baseline; each holds one `{}` for the class name."""
    examples: int = 9
    """Top images kept per concept."""
    world_images: int = 3000
    """Scenes of the rendered concept world, where no data is given."""
    seed: int = 0
    """Seeds the split, the autoencoder (not that of `dncbm-paper`, which has the paper's seed),
    the naming threshold and the probe."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Recipe":
        """The recipe with these fields, as JSON and TOML have them.

        Raises:
            UnknownName: a field that no recipe has.
            InvalidInput: a value of another type, or one that breaks a rule.
        """
        return cls(**checked_fields(cls, values, "recipe"))

    def __post_init__(self) -> None:
        check_types(self)
        if self.data is not None and self.dataset is not None:
            raise InvalidInput("Both data and dataset are given. Give one of them.")
        for name, minimum in (
            ("workers", 0),
            ("batch_size", 1),
            ("examples", 1),
            ("seed", 0),
            ("train_workers", 0),
        ):
            if getattr(self, name) < minimum:
                raise InvalidInput(
                    f"{name} is {getattr(self, name)}; it must be at least {minimum}."
                )
        if self.stability < 0 or self.stability == 1:
            raise InvalidInput(
                f"stability is {self.stability}; it counts autoencoders that are compared: give "
                "0 for none, or at least 2 (3 for a figure to rely on)."
            )
        bad = [template for template in self.templates if template.count("{}") != 1]
        if bad or not self.templates:
            raise InvalidInput(f"Each template needs one '{{}}' for the class name; got {bad!r}.")

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON-serialisable values."""
        return json.loads(json.dumps(asdict(self)))

    def located(self, base: Path) -> "Recipe":
        """The recipe with absolute paths; relative ones are taken from the folder `base`.

        So that a later stage finds everything, wherever it is started.
        """
        return replace(
            self,
            data=self.data and located(self.data, base),
            dataset=self.dataset and _located_dataset(self.dataset, base),
            vocabulary=self.vocabulary and located(self.vocabulary, base),
            encoder=located_network(self.encoder, base),
        )


TABLES = ("sae", "naming", "probe")
"""Fields of a recipe that are tables of overrides."""


def merged(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `old` under `changes`; tables are merged, and "" takes an override back."""
    out = {**old, **changes}
    for name in TABLES:
        table = {**old.get(name, {}), **changes.get(name, {})}
        out[name] = {key: value for key, value in table.items() if value != ""}
    return out


def located(text: str, base: Path) -> str:
    """An absolute path; addresses (`s3://...`) and data set names (`hf:...`) stay as they are."""
    if "://" in text or text.partition(":")[0] in ("hf", "torchvision"):
        return text
    return os.path.abspath(base / Path(text).expanduser())


def _located_dataset(text: str, base: Path) -> str:
    """A data set that was saved to a folder, with its absolute path."""
    folder = base / Path(text.removeprefix("hf:")).expanduser()
    return f"hf:{located(str(folder), base)}" if folder.is_dir() else text


def located_network(text: str, base: Path) -> str:
    """An encoder or a classifier with an absolute path where it names a file or a folder."""
    scheme, _, folder = text.partition(":")
    if folder and scheme in ("local-dir", "bcos", "guided", "trained"):
        return f"{scheme}:{located(folder, base)}"
    here = base / Path(text).expanduser()
    if any((place / MANIFEST).is_file() for place in (here, here / "encoder")):
        return f"trained:{located(text, base)}"
    for mark in ("@", ":"):  # ARCH:TAG@FILE or ARCH:FILE; a tag or a hub id is no file
        before, _, path = text.partition(mark)
        if path and before != "hf-hub" and (base / Path(path).expanduser()).is_file():
            return before + mark + located(path, base)
    return text


def sae_config(recipe: Recipe, embed_dim: int, num_rows: int) -> Any:
    """The `SaeConfig` that a recipe asks for.

    The seed of `dncbm-paper` is part of that recipe: it stands unless `sae.seed` is given.
    """
    from dncbm.sae.presets import preset  # heavy: not for those who only read a recipe

    own_seed = {} if recipe.sae_preset == "dncbm-paper" else {"seed": recipe.seed}
    choices = own_seed | dict(recipe.sae)
    return preset(recipe.sae_preset, embed_dim=embed_dim, num_rows=num_rows, **choices)


def naming_config(recipe: Recipe) -> Any:
    """The `NamingConfig` that a recipe asks for."""
    from dncbm.naming.config import naming_preset

    choices = {"blocked_words": recipe.blocked_words, "seed": recipe.seed, **recipe.naming}
    for listed in {"blocked_words", "templates"} & set(choices):
        choices[listed] = tuple(choices[listed])
    return naming_preset(recipe.naming_preset, **choices)


def probe_config(recipe: Recipe) -> Any:
    """The `ProbeConfig` that a recipe asks for.

    Raises:
        UnknownName: a field that the probe does not have.
    """
    from dncbm.probe.train import ProbeConfig

    known = ProbeConfig.__dataclass_fields__
    for name in recipe.probe:
        if name not in known:
            raise UnknownName("probe setting", name, known)
    values: dict[str, Any] = {"seed": recipe.seed, **recipe.probe}
    if isinstance(values.get("necs"), int):  # --set probe.necs=5
        values["necs"] = (values["necs"],)
    return ProbeConfig(**values)
