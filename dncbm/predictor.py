"""The whole forward path: images to embeddings to codes to logits, explained by concepts."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final, get_args

import numpy as np
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor, inference_mode

from dncbm.artifacts import MANIFEST, fingerprint, require_input
from dncbm.bcos.store import blueprint_of, load_bcos
from dncbm.encoders import clip
from dncbm.encoders.clip import Encoder
from dncbm.errors import ArtifactError, InvalidInput, UnknownName
from dncbm.naming.dictionary import Dictionary, load_dictionary
from dncbm.naming.mates import base_names
from dncbm.probe.model import LogitAccount
from dncbm.probe.store import Cbm, load_cbm
from dncbm.sae.model import SaeModel
from dncbm.sae.store import load_sae
from dncbm.types import Contribution, ListedBy, Prediction

logger = logging.getLogger(__name__)

_LISTED_BY = get_args(ListedBy)


def load_encoder(spec: str = "mini", *, device: str = "auto", precision: str = "auto") -> Encoder:
    """The encoder that `spec` names, B-cosified ones included.

    Args:
        spec: `bcos:DIR` for what `dncbm bcosify` wrote (the texts are those of the encoder that
            it was made of, which must still be there), else what
            `dncbm.encoders.clip.load_encoder` takes.
        device: see there.
        precision: see there.

    Raises:
        ArtifactError: no such directory, or damaged.
        ArtifactMismatch: the encoder that it was made of has changed.
        UnknownName, InvalidInput, Unavailable: see `dncbm.encoders.clip.load_encoder`.
    """
    scheme, _, folder = spec.partition(":")
    if scheme != BCOS or not folder:
        return clip.load_encoder(spec, device=device, precision=precision)
    path = Path(folder).expanduser()
    path = path if (path / MANIFEST).is_file() else path / BCOS
    blueprint = blueprint_of(path)
    if blueprint.family != "encoder":
        raise InvalidInput(f"{path} is a classifier, not an image-text encoder.")
    base = clip.load_encoder(blueprint.name, device=device, precision=precision)
    tower = load_bcos(path, original=base.image_tower())
    require_input(
        tower.manifest, "model", base.fingerprint,
        artifact=str(path), remedy=f"Put back the {blueprint.name} that it was made of.",
    )  # fmt: skip
    mark = fingerprint([tower.manifest.fingerprint, base.fingerprint])
    return base.with_image_tower(tower.network, spec=spec, fingerprint=mark)


BCOS = "bcos"
"""Scheme of B-cosified encoders, and the artifact's name within a model directory."""


@final
class Predictor:
    """A concept bottleneck model ready to predict and explain.

    Holds no state between calls: concurrent calls from several threads are safe.
    """

    def __init__(
        self, *, encoder: Encoder, sae: SaeModel, dictionary: Dictionary, cbm: Cbm
    ) -> None:
        self.encoder = encoder
        self.sae = sae.eval()
        self.dictionary = dictionary
        self.cbm = cbm
        self._groups = np.array([name.group for name in dictionary.names])
        self._base_names = base_names(dictionary.names)

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "auto", encoder: Encoder | None = None
    ) -> "Predictor":
        """Read the model directory that `dncbm quickstart` or `dncbm bottleneck` wrote.

        Args:
            path: directory with the artifacts `sae`, `dictionary` and `cbm`.
            device: where the encoder runs.
            encoder: an encoder already in memory; by default the one named in the model.

        Raises:
            ArtifactError: not a model directory, damaged or incomplete.
            ArtifactMismatch: its parts, or the encoder, do not belong together.
        """
        root = Path(path)
        if not root.is_dir():
            raise ArtifactError(
                f"{path} does not exist. Give the directory that `dncbm quickstart --out` wrote; "
                "models are loaded from directories only."
            )
        if not (root / "cbm").is_dir():
            raise ArtifactError(
                f"{root} holds no model: it has no directory 'cbm'. "
                "Give the directory that `dncbm quickstart --out` wrote."
            )
        cbm = load_cbm(root / "cbm")
        sae = load_sae(root / "sae")
        dictionary = load_dictionary(root / "dictionary")
        encoder = encoder or load_encoder(str(cbm.manifest.config["encoder"]), device=device)
        found = {
            "encoder": encoder.fingerprint,
            "sae": sae.manifest.fingerprint,
            "dictionary": dictionary.manifest.fingerprint,
        }
        for role, actual in found.items():
            require_input(
                cbm.manifest,
                role,
                actual,
                artifact=str(root / "cbm"),
                remedy=f"Use the {role} it was made with, or run `dncbm bottleneck` again.",
            )
        return cls(encoder=encoder, sae=sae.model, dictionary=dictionary, cbm=cbm)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by class index."""
        return tuple(self.cbm.classes)

    def embed(self, images: Sequence[Image]) -> Float[Tensor, "n d"]:
        """Raw encoder output of RGB images, float32 on the CPU.

        Raises:
            InvalidInput: anything but a list of PIL images.
        """
        _require_images(images)
        return self.encoder.embed_pil(images)

    @inference_mode()
    def encode(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Concept codes, non-negative, of raw embeddings."""
        return self.sae.encode(embeddings)

    def predict(
        self,
        images: Sequence[Image],
        *,
        top_contributions: int = 5,
        top_classes: int = 1,
        nec: int | None = None,
        by: str = "concept",
    ) -> list[list[Prediction]]:
        """The best classes of each image, each with its named concept contributions.

        Args:
            images: RGB images.
            top_contributions: how many contributions to list per class, by absolute size.
            top_classes: how many classes to explain per image, best first.
            nec: use the head with this number of effective concepts per class.
            by: `concept` lists each concept by itself; `name` adds up those that share a name
                (`ConceptName.group`) and says which they are (`Contribution.concepts`).

        Raises:
            InvalidInput: no image, a count below its minimum, or no head of that NEC.
            UnknownName: `by` is neither.
        """
        if not images:
            raise InvalidInput("No image was given. Give at least one.")
        codes = self.encode(self.embed(images))
        return self.predict_codes(
            codes, top_contributions=top_contributions, top_classes=top_classes, nec=nec, by=by
        )

    def predict_codes(
        self,
        codes: Float[Tensor, "n c"],
        *,
        top_contributions: int = 5,
        top_classes: int = 1,
        nec: int | None = None,
        by: str = "concept",
    ) -> list[list[Prediction]]:
        """The last arrow of `predict`, for codes that are already there."""
        _require_at_least("top_contributions", top_contributions, 0)
        _require_at_least("top_classes", top_classes, 1)
        if by not in _LISTED_BY:
            raise UnknownName("value of `by`", by, _LISTED_BY)
        probe = self.cbm.probe_for(nec)
        groups = self._groups if by == "name" else None
        logits = probe.logits(codes)
        probabilities = (logits / self.cbm.temperature_for(nec)).softmax(dim=1)
        order = logits.argsort(dim=1, descending=True, stable=True)[:, :top_classes].tolist()
        return [
            [
                self._prediction(
                    probe.contributions(row, index, top_contributions, groups),
                    index,
                    float(p[index]),
                )
                for index in best
            ]
            for row, p, best in zip(codes, probabilities, order, strict=True)
        ]

    def _prediction(self, account: LogitAccount, index: int, probability: float) -> Prediction:
        parts = zip(
            account.members, account.codes, account.weights, account.contributions, strict=True
        )
        return Prediction(
            class_name=self.classes[index],
            class_index=index,
            probability=probability,
            logit=account.logit,
            bias=account.bias,
            remainder=account.remainder,
            contributions=tuple(
                Contribution(
                    concept=members[0],
                    name=self._name(members),
                    code=float(code),
                    weight=float(weight),
                    contribution=float(contribution),
                    concepts=members if len(members) > 1 else (),
                )
                for members, code, weight, contribution in parts
            ),
        )

    def _name(self, concepts: tuple[int, ...]) -> str:
        """What they are all called, else the first one's name without its detail."""
        first = self.dictionary.names[concepts[0]].name
        same = all(self.dictionary.names[concept].name == first for concept in concepts)
        return first if same else self._base_names[concepts[0]]

    def search(self, text: str, *, limit: int = 10) -> list[tuple[int, float]]:
        """Concepts nearest to a text, compared as the names were: (concept, cosine), best first.

        Blocked concepts are left out.

        Raises:
            InvalidInput: a blank text, or a limit below 1.
        """
        _require_at_least("limit", limit, 1)
        if not text.strip():
            raise InvalidInput("The search text is empty. Give a word or a phrase.")
        return self.dictionary.search(self.encoder.encode_texts([text])[0], limit)

    def describe(self) -> dict[str, Any]:
        """What this model is: classes, encoder, sizes, metrics and fingerprints."""
        return {
            "classes": list(self.classes),
            "encoder": self.encoder.spec,
            "num_concepts": len(self.dictionary.names),
            "effective_concepts": sorted(self.cbm.nec_probes),
            "metrics": dict(self.cbm.metrics),
            "fingerprint": self.cbm.manifest.fingerprint,
            "inputs": dict(self.cbm.manifest.inputs),
        }


def _require_images(images: Any) -> None:
    many = isinstance(images, list | tuple)
    wrong = [item for item in images if not isinstance(item, Image)] if many else [images]
    if wrong:
        raise InvalidInput(
            f"images must be a list of PIL images, got {wrong[0]!r}. Open files first: "
            "predictor.predict([Image.open(path).convert('RGB')])."
        )


def _require_at_least(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise InvalidInput(f"{name} is {value}; it must be at least {minimum}.")
