"""What `dncbm localise` explains: a network with named outputs, and the pixels that it takes."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from dncbm.artifacts import MANIFEST, fingerprint
from dncbm.attribution.headed import Headed
from dncbm.attribution.heads import Head, class_logits, concept_codes, text_cosines
from dncbm.attribution.localisation import Confidence
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.originals import FAMILIES, open_classifier, parse_classifier
from dncbm.bcos.store import LoadedBcos, NetworkKind, blueprint_of, load_bcos
from dncbm.data.pixels import centred
from dncbm.data.views import Views
from dncbm.encoders.clip import Encoder, load_encoder
from dncbm.encoders.spec import BCOS, GUIDED
from dncbm.errors import ArtifactError, InvalidInput, UnknownName
from dncbm.predictor import Predictor
from dncbm.training.devices import resolve_device
from pipelines.bcosify import weights_mark
from pipelines.recipes import PHOTO_TEMPLATES

_GEOMETRIES = {"shortest": "shortest"}
"""Of open_clip's resize modes; `squash` keeps no shape."""
TargetsOf = Literal["classes", "concepts"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A network that is explained."""

    spec: str
    network: nn.Module
    """Images (n, 3, h, w) to outputs (n, k), in eval mode."""
    names: tuple[str, ...]
    """Of the outputs."""
    targets: TargetsOf
    resize: Callable[[Image.Image], UInt8[np.ndarray, "h w 3"]]
    normalise: Callable[[UInt8[Tensor, "n h w 3"]], Float[Tensor, "n 3 h w"]]
    confidence: Confidence
    """How sure it is of an image, see `sure_images`."""
    fingerprint: str
    device: str
    geometry: str = "centred"
    """How photos become squares, as annotations are told."""

    @property
    def is_bcos(self) -> bool:
        """Whether contributions by W(x) are exact."""
        tower = self.network.tower if isinstance(self.network, Headed) else self.network
        return isinstance(tower, ImageModel)

    def pixels(self, levels: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
        """What the network takes."""
        return self.normalise(levels).to(self.device)


def open_subject(
    model: str, classes: Sequence[str], targets: TargetsOf, device: str = "auto"
) -> Subject:
    """The network that `--model` names.

    Args:
        model: a model directory of `dncbm quickstart`, an image-text encoder, `bcos:DIR`,
            `guided:DIR`, or `torchvision:NAME[@FILE]` and `timm:NAME[@FILE]` with the classes of
            the data.
        classes: of the data, sorted; texts of an encoder.
        targets: outputs that are explained; concepts need a model directory.
        device: `cpu`, `cuda` or `auto`.

    Raises:
        InvalidInput: concepts of a model without any, data without classes, or a classifier whose
            head has another number of classes.
        ArtifactError, UnknownName, Unavailable: a model that cannot be read or had.
    """
    if Path(model).is_dir():
        return _of_directory(model, targets, device)
    if targets == "concepts":
        raise InvalidInput(
            f"{model} has no concepts. Give the directory that `dncbm quickstart --out` wrote, or "
            "take --targets classes."
        )
    if len(classes) < 2:
        raise InvalidInput(
            f"The photos have {len(classes)} classes; a grid needs several. Put each class into a "
            "folder of its own, or give a model directory and --targets concepts."
        )
    scheme, _, folder = model.partition(":")
    if scheme in FAMILIES:
        return _of_classifier(model, tuple(classes), device)
    if scheme in (BCOS, GUIDED):
        kind: NetworkKind = BCOS if scheme == BCOS else GUIDED
        path = _network_path(Path(folder), kind)
        if blueprint_of(path, kind).family != "encoder":
            return _of_stored(model, load_bcos(path, kind=kind), device)
    return _of_texts(load_encoder(model, device=device, precision="fp32"), tuple(classes))


def with_concepts(subject: Subject, concepts: Sequence[int], scales: Tensor) -> Subject:
    """The subject with some of its outputs only, each divided by its scale.

    Raises:
        InvalidInput: a network without an embedding.
    """
    network = subject.network
    if not isinstance(network, Headed):
        raise InvalidInput(f"{subject.spec} has no embedding that concepts are made of.")
    head, chosen, divided = network.head, list(concepts), scales[list(concepts)]
    tower = network.tower

    def some(embeddings: Tensor) -> Tensor:
        return head(embeddings)[:, chosen] / divided.to(embeddings)

    names = tuple(subject.names[c] for c in chosen)
    return replace(subject, network=Headed(tower, some), names=names)


def _of_directory(model: str, targets: TargetsOf, device: str) -> Subject:
    predictor = Predictor.load(model, device=device)
    encoder, sae = predictor.encoder, predictor.sae.to(predictor.encoder.device)
    if targets == "concepts":
        names = tuple(name.name for name in predictor.dictionary.names)
        head = concept_codes(sae, range(len(names)))
    else:
        names = predictor.classes
        head = class_logits(sae, predictor.cbm.probe_for(None), range(len(names)))
    mark = predictor.cbm.manifest.fingerprint
    how: Confidence = "margin" if targets == "concepts" else "softmax"
    return _of_encoder(encoder, head, names, targets, how, spec=model, mark=mark)


def _of_texts(encoder: Encoder, classes: tuple[str, ...]) -> Subject:
    texts = encoder.encode_texts(classes, templates=PHOTO_TEMPLATES).to(encoder.device)
    return _of_encoder(
        encoder, text_cosines(texts), classes, "classes", "margin",
        spec=encoder.spec, mark=encoder.fingerprint,
    )  # fmt: skip


def _of_encoder(
    encoder: Encoder, head: Head, names: tuple[str, ...], targets: TargetsOf, how: Confidence,
    *, spec: str, mark: str,
) -> Subject:  # fmt: skip
    return Subject(
        spec=spec, network=Headed(encoder.image_tower(), head).eval(), names=names,
        targets=targets, resize=encoder.preprocess.resize,
        normalise=encoder.preprocess.normalise, confidence=how,
        fingerprint=fingerprint([mark, targets, names]), device=encoder.device,
        geometry=_GEOMETRIES.get(encoder.preprocess_config["resize_mode"], "resized"),
    )  # fmt: skip


def _of_classifier(model: str, classes: tuple[str, ...], device: str) -> Subject:
    spec = parse_classifier(model)
    network, views = open_classifier(spec, len(classes))
    _require_own_head(network, open_classifier(spec, len(classes))[0], model, len(classes))
    return _of_views(model, network, views, classes, device, "softmax")


def _of_stored(model: str, loaded: LoadedBcos, device: str) -> Subject:
    how: Confidence = "sigmoid" if isinstance(loaded.network, ImageModel) else "softmax"
    return _of_views(model, loaded.network, loaded.views, loaded.classes, device, how)


def _of_views(
    model: str, network: nn.Module, views: Views, classes: tuple[str, ...], device: str,
    how: Confidence,
) -> Subject:  # fmt: skip
    device = resolve_device(device)
    return Subject(
        spec=model, network=network.eval().requires_grad_(False).to(device), names=classes,
        targets="classes", resize=centred(views.size),
        normalise=lambda levels: views.whole(levels.movedim(3, 1)), confidence=how,
        fingerprint=fingerprint([weights_mark(network), asdict(views), classes]), device=device,
    )  # fmt: skip


def _require_own_head(first: nn.Module, second: nn.Module, model: str, count: int) -> None:
    """Refuse random weights: a head that began anew differs from one opening to the next."""
    pairs = zip(first.state_dict().items(), second.state_dict().values(), strict=True)
    if any(not torch.equal(one, other) for (_, one), other in pairs):
        raise InvalidInput(
            f"The head of {model} has another number of classes than the photos, {count}; it would "
            "begin anew, with nothing to explain. Train it on these classes (dncbm bcosify), or "
            "give photos of its own classes."
        )


def _network_path(folder: Path, kind: NetworkKind) -> Path:
    path = folder.expanduser()
    for place in (path, path / kind):
        if (place / MANIFEST).is_file():
            return place
    command = "bcosify" if kind == BCOS else "guide"
    raise ArtifactError(f"{folder} holds no network. Give what `dncbm {command}` wrote.")


def known_labels(labels: Sequence[str | None], names: Sequence[str], spec: str) -> list[int | None]:
    """Output of each image's class; None for images without one.

    Raises:
        InvalidInput: no image has a class.
        UnknownName: no class of the data is among the outputs.
    """
    if not any(labels):
        raise InvalidInput(
            "The photos have no classes; a grid needs several. Put each class into a folder of its "
            "own, or give a model directory and --targets concepts."
        )
    place = {name: k for k, name in enumerate(names)}
    found = [None if label is None else place.get(label) for label in labels]
    if all(k is None for k in found):
        some = next((label for label in labels if label), "")
        raise UnknownName(f"class of {spec}", some, names)
    return found
