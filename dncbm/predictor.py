"""The whole forward path: images to embeddings to codes to logits, explained by concepts."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final, get_args

import numpy as np
from jaxtyping import Float, UInt8
from PIL.Image import Image
from torch import Tensor, from_numpy, inference_mode

from dncbm.artifacts import require_input
from dncbm.attribution.pixels import pixel_maps
from dncbm.attribution.targets import Target, attribution_of, head_of, indices
from dncbm.encoders.clip import Encoder, load_encoder_of
from dncbm.errors import ArtifactError, InvalidInput, UnknownName
from dncbm.naming.dictionary import Dictionary, load_dictionary
from dncbm.naming.mates import base_names
from dncbm.probe.changes import CodeChange, change_codes, changed_codes, changed_concepts
from dncbm.probe.model import LogitAccount
from dncbm.probe.store import Cbm, load_cbm
from dncbm.sae.model import SaeModel
from dncbm.sae.store import load_sae
from dncbm.stages import stage
from dncbm.types import Attribution, Contribution, Intervention, ListedBy, Prediction

logger = logging.getLogger(__name__)

_LISTED_BY = get_args(ListedBy)


@final
class Predictor:
    """A concept bottleneck model ready to predict and explain.

    Holds no state between calls: concurrent calls from several threads are safe.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        sae: SaeModel,
        dictionary: Dictionary,
        cbm: Cbm,
        image_backend: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.encoder = encoder
        self.image_backend = image_backend
        """What embeds pixels (n, 3, h, w) in place of the encoder, such as a `Batcher`."""
        self.on_codes: Callable[[Tensor], None] | None = None
        """Told the codes (n, c) of all images that a prediction is asked of."""
        self.sae = sae.eval()
        self.dictionary = dictionary
        self.cbm = cbm
        self._groups = np.array([name.group for name in dictionary.names])
        self._base_names = base_names(dictionary.names)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        encoder: Encoder | None = None,
        image_backend: Callable[[Tensor], Tensor] | None = None,
    ) -> "Predictor":
        """Read the model directory that `dncbm quickstart` or `dncbm bottleneck` wrote.

        Args:
            path: directory with the artifacts `sae`, `dictionary` and `cbm`.
            device: where the encoder runs.
            encoder: an encoder already in memory; by default the one named in the model.
            image_backend: embeds pixels in place of that encoder; by default itself.

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
        if encoder is None:
            spec, mark = str(cbm.manifest.config["encoder"]), cbm.manifest.inputs.get("encoder")
            encoder = load_encoder_of(root, spec, mark, device=device)
        found = {
            "encoder": encoder.fingerprint,
            "sae": sae.manifest.fingerprint,
            "dictionary": dictionary.manifest.fingerprint,
        }
        for role, fingerprint in found.items():
            require_input(
                cbm.manifest,
                role,
                fingerprint,
                artifact=str(root / "cbm"),
                remedy=f"Use the {role} it was made with, or run `dncbm bottleneck` again.",
            )
        return cls(
            encoder=encoder,
            sae=sae.model,
            dictionary=dictionary,
            cbm=cbm,
            image_backend=image_backend,
        )

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
        with stage("encode", len(images)):
            return self.encoder.embed_pil(images, self.image_backend)

    @inference_mode()
    def encode(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Concept codes, non-negative, of raw embeddings."""
        with stage("codes", len(embeddings)):
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
        return self.predict_embeddings(
            self.embed(images),
            top_contributions=top_contributions, top_classes=top_classes, nec=nec, by=by,
        )  # fmt: skip

    def predict_embeddings(
        self, embeddings: Float[Tensor, "n d"], **query: Any
    ) -> list[list[Prediction]]:
        """The same for raw embeddings that are already there; `query` as of `predict`."""
        codes = self.encode(embeddings)
        found = self.predict_codes(codes, **query)
        if self.on_codes is not None:  # once it is sure that nobody asks again
            self.on_codes(codes)
        return found

    @inference_mode()
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
        rows = codes.detach().cpu().double()  # at once rather than one by one
        logits = probe.logits(rows)
        probabilities = (logits / self.cbm.temperature_for(nec)).softmax(dim=1)
        order = logits.argsort(dim=1, descending=True, stable=True)[:, :top_classes].tolist()
        return [
            [
                self._prediction(
                    probe.contributions(row, index, top_contributions, groups),
                    index,
                    p[index],
                )
                for index in best
            ]
            for row, p, best in zip(rows, probabilities.tolist(), order, strict=True)
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
        if len(concepts) == 1:
            return first
        same = all(self.dictionary.names[concept].name == first for concept in concepts)
        return first if same else self._base_names[concepts[0]]

    def intervene(
        self, images: Sequence[Image], changes: Sequence[CodeChange], **listing: Any
    ) -> list[Intervention]:
        """What each decision would be if some concepts had other codes.

        Args:
            images: RGB images.
            changes: codes to set, to scale or to remove, by index or by name.
            listing: `top_contributions`, `top_classes`, `nec` and `by`, as in `predict`.

        Raises:
            InvalidInput: no image, a concept changed twice, or what `predict` refuses.
            UnknownName: no concept of such a name.
        """
        if not images:
            raise InvalidInput("No image was given. Give at least one.")
        names = [name.name for name in self.dictionary.names]
        wanted = changed_concepts(changes, names, self._base_names)
        before = self.encode(self.embed(images))
        after = change_codes(before, wanted)
        old, new = (self.predict_codes(codes, **listing) for codes in (before, after))
        rows = zip(old, new, before, after, strict=True)
        return [
            Intervention(tuple(b), tuple(a), changed_codes(wanted, names, *codes))
            for b, a, *codes in rows
        ]

    def edited(self, dictionary: Dictionary, cbm: Cbm) -> "Predictor":
        """The same encoder and autoencoder with other names, weights or temperatures."""
        made = Predictor(
            encoder=self.encoder,
            sae=self.sae,
            dictionary=dictionary,
            cbm=cbm,
            image_backend=self.image_backend,
        )
        made.on_codes = self.on_codes
        return made

    def explain(
        self,
        images: Sequence[Image],
        *,
        classes: Sequence[int | str] = (),
        concepts: Sequence[int | str] = (),
        texts: Sequence[str] = (),
        top: int = 3,
        nec: int | None = None,
    ) -> list[list[Attribution]]:
        """Where in each image classes, concepts and texts come from.

        Exact for a B-cos encoder, post hoc for any other (`Attribution.exact`). Where nothing is
        asked for: the predicted class and its `top` concepts.

        Args:
            images: RGB images; explained as the encoder sees them, resized and cropped.
            classes: indices or names; their logits.
            concepts: indices or names; their codes. A name stands for all concepts that have it.
            texts: their cosines with the image.
            top: concepts where nothing is asked for.
            nec: use the head with this number of effective concepts per class.

        Raises:
            InvalidInput: no image, or an index that does not exist.
            UnknownName: a class or a concept of no such name.
        """
        if not len(images):
            raise InvalidInput("No image was given. Give at least one.")
        if classes or concepts or texts:
            wanted = self._wanted(classes, concepts, texts)
            return [self._explained(image, wanted, nec) for image in images]
        codes = self.encode(self.embed(images))
        best = self.predict_codes(codes, top_contributions=top, nec=nec)
        return [
            self._explained(image, self._wanted([p.class_index], _listed(p), ()), nec)
            for image, [p] in zip(images, best, strict=True)
        ]

    def _wanted(
        self, classes: Sequence[int | str], concepts: Sequence[int | str], texts: Sequence[str]
    ) -> list[Target]:
        names = [name.name for name in self.dictionary.names]
        of_classes = indices("class", classes, self.classes)
        of_concepts = indices("concept", concepts, names, self._base_names)
        return [
            *(Target("class", self.classes[index], index) for index in of_classes),
            *(Target("concept", names[index], index) for index in of_concepts),
            *(Target("text", text, None) for text in texts),
        ]

    def _explained(self, image: Image, wanted: list[Target], nec: int | None) -> list[Attribution]:
        with stage("explain", 1):
            pixels = self.encoder.preprocess(image)[None].to(self.encoder.device)
            head = head_of(
                wanted,
                self.sae,
                self.cbm.probe_for(nec),
                lambda texts: self.encoder.encode_texts(texts),
            )
            maps = pixel_maps(self.encoder.image_tower(), pixels, head)
        return [attribution_of(target, maps, t) for t, target in enumerate(wanted)]

    def seen(self, image: Image) -> UInt8[np.ndarray, "h w 3"]:
        """The part of an image that the encoder sees, at its resolution: what maps lie on."""
        return self.encoder.preprocess.resize(image)

    def pixels(self, seen: Sequence[UInt8[np.ndarray, "h w 3"]]) -> Float[Tensor, "n 3 h w"]:
        """What `seen` gave, as the encoder takes it."""
        return self.encoder.preprocess.normalise(from_numpy(np.stack(seen)))

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


def _listed(prediction: Prediction) -> list[int]:
    return [part.concept for part in prediction.contributions]
