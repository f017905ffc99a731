"""Image-text encoders: every open_clip model, and the bundled `mini`, behind one class."""

import copy
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, final

import numpy as np
import open_clip
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from dncbm.artifacts import MANIFEST, fingerprint, load_manifest, require_input
from dncbm.bcos.store import NetworkKind, blueprint_of, load_bcos
from dncbm.encoders.carried import candidates
from dncbm.encoders.creation import created, fingerprint_of, recipe_of, tell_assumed, tokenizer_of
from dncbm.encoders.fetch import fetching
from dncbm.encoders.preprocess import Preprocess, preprocess_config
from dncbm.encoders.spec import BCOS, GUIDED, MINI, parse_spec
from dncbm.encoders.trained import ImagesAlone, load_texts, load_tower, trained_folder
from dncbm.encoders.untrained import SCRATCH, untrained
from dncbm.errors import ArtifactMismatch, InvalidInput, UnknownName
from dncbm.training.devices import resolve_device
from dncbm.training.precision import native_bfloat16

_log = logging.getLogger(__name__)

_PRECISIONS = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
_BATCH = 64
"""Images per forward pass of `embed_pil`."""


@final
class Encoder:
    """The image and text towers of one model, ready for inference.

    Every method can be called from several threads.
    """

    spec: str
    """What `load_encoder` was given."""
    embed_dim: int
    image_size: tuple[int, int]
    """Height and width of the pixels that `encode_images` expects."""
    fingerprint: str
    """SHA-256 over configuration, weights and tokenizer; not over device and precision."""
    device: str
    precision: str
    preprocess: Preprocess
    """An RGB image to normalised pixels (3, h, w)."""

    def __init__(
        self, spec: str, model: nn.Module, tokenizer: Any, *,
        fingerprint: str, device: str, precision: str,
    ) -> None:  # fmt: skip
        self.spec = spec
        self.fingerprint = fingerprint
        self.device = device
        self.precision = precision
        self.preprocess_config = preprocess_config(model)
        self.preprocess = Preprocess(self.preprocess_config)
        size = self.preprocess_config["size"]
        self.image_size = (size, size) if isinstance(size, int) else (size[0], size[1])
        self._model: Any = _laid_out(model.to(device)).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self.embed_dim = model.embed_dim if isinstance(model, ImagesAlone) else (
            self._embed([""]).shape[1]
        )  # fmt: skip

    @property
    def num_bytes(self) -> int:
        """Memory of the weights of both towers."""
        return sum(tensor.nbytes for tensor in self._model.state_dict().values())

    @torch.no_grad()
    def encode_images(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Raw (not normalised) embeddings of preprocessed images, float32 on the CPU."""
        if len(pixels) == 0:
            return torch.zeros(0, self.embed_dim)
        with self._autocast():
            return self._model.encode_image(pixels.to(self.device)).float().cpu()

    def image_tower(self) -> nn.Module:
        """Pixels (n, 3, h, w) to raw embeddings (n, d) as a module; shares the weights."""
        if isinstance(self._model, open_clip.CLIP | open_clip.CustomTextCLIP | ImagesAlone):
            return self._model.visual
        return _ImageTower(self._model)

    def trainable_model(self) -> nn.Module:
        """A copy of all of the model, with weights that want gradients."""
        return copy.deepcopy(self._model).requires_grad_(True)

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "v t"]:
        """Texts as the text tower takes them, cut at its context length."""
        return self._tokenizer(list(texts))

    @property
    def has_texts(self) -> bool:
        """Whether there is a text tower."""
        return not isinstance(self._model, ImagesAlone)

    def require_exchangeable(self) -> None:
        """Refuse an encoder whose image embedding is more than its tower's output."""
        if not isinstance(self._model, open_clip.CLIP | open_clip.CustomTextCLIP):
            raise InvalidInput(
                f"The encoder {self.spec!r} is a {type(self._model).__name__}, whose image tower "
                "cannot be exchanged. Take a CLIP model: two towers and a cosine."
            )

    def with_image_tower(
        self, tower: nn.Module, *, spec: str, fingerprint: str,
        preprocess: dict[str, Any] | None = None, texts: dict[str, Tensor] | None = None,
    ) -> "Encoder":  # fmt: skip
        """The encoder with another image tower; texts and precision are the same.

        Args:
            tower: pixels into the same space, such as a B-cosified copy.
            spec: how `load_encoder` would be asked for the result.
            fingerprint: of this encoder and the tower.
            preprocess: the pixels that the tower takes, where they are others.
            texts: weights of all but the image tower, where they are others.

        Raises:
            InvalidInput: this encoder's image embedding is more than its tower's output.
        """
        self.require_exchangeable()
        model = copy.copy(self._model)
        parts = {name: part for name, part in model._modules.items() if name != "visual"}
        if texts is not None:
            model._parameters = copy.deepcopy(model._parameters)
            parts = copy.deepcopy(parts)
        model._modules = {**parts, "visual": tower}
        if texts is not None:
            load_texts(model, texts, spec)
        open_clip.set_model_preprocess_cfg(model, dict(preprocess or self.preprocess_config))
        return Encoder(
            spec, model, self._tokenizer,
            fingerprint=fingerprint, device=self.device, precision=self.precision,
        )  # fmt: skip

    def embed_pil(
        self,
        images: Sequence[Image.Image],
        backend: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "n d"]:
        """Raw embeddings of RGB images, float32 on the CPU, by another backend if given."""
        embed = backend or self.encode_images
        parts = [torch.zeros(0, self.embed_dim)]
        for start in range(0, len(images), _BATCH):
            resized = [self.preprocess.resize(image) for image in images[start : start + _BATCH]]
            pixels = self.preprocess.normalise(torch.from_numpy(np.stack(resized)))
            parts.append(embed(pixels))
        return torch.cat(parts)

    def encode_texts(
        self,
        texts: Sequence[str],
        *,
        templates: Sequence[str] = ("{}",),
        batch_size: int = 256,
    ) -> Float[Tensor, "v d"]:
        """Unit-norm text embeddings, float32 on the CPU.

        Each text is put into every template at `{}`; the embeddings of the templates are
        normalised, averaged and normalised again (Radford et al. 2021, prompt ensembling).

        Raises:
            InvalidInput: no template, one without `{}`, a batch size below 1, or an encoder
                without a text tower.
        """
        if not self.has_texts:
            raise InvalidInput(
                f"The encoder {self.spec!r} has no text tower: it was trained on images alone, so "
                "no word can be compared with them. Name concepts with an encoder that has texts, "
                "for example a student of one: dncbm distill --teacher mini."
            )
        _check_templates(templates)
        if batch_size < 1:
            raise InvalidInput(f"batch_size is {batch_size}; it must be at least 1.")
        total = torch.zeros(len(texts), self.embed_dim)
        for template in templates:
            filled = [template.replace("{}", text) for text in texts]
            for start in range(0, len(filled), batch_size):
                part = self._embed(filled[start : start + batch_size])
                total[start : start + len(part)] += functional.normalize(part, dim=-1)
        return functional.normalize(total, dim=-1)

    @torch.no_grad()
    def _embed(self, texts: Sequence[str]) -> Float[Tensor, "v d"]:
        tokens = self._tokenizer(list(texts)).to(self.device)
        model, tokens = _shortened(self._model, tokens)
        with self._autocast():
            return model.encode_text(tokens).float().cpu()

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = _PRECISIONS[self.precision]
        if dtype is None:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=dtype)


def _laid_out(model: nn.Module) -> nn.Module:
    """The model with the layout of weights in which convolutions are fastest on a processor.

    With channels last a convolutional tower takes on one core two thirds of the time for one image
    and half of it for eight; its results differ by rounding. A transformer's only convolution,
    that of its patches, gains nothing and stays as it is.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    if len(layers) < 2 or layers[0].weight.device.type != "cpu":
        return model
    for layer in layers:
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return model


class _ImageTower(nn.Module):
    """The image half of a model whose embedding is more than its `visual`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model: Any = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self._model.encode_image(pixels)


def _shortened(model: Any, tokens: Int[Tensor, "v t"]) -> tuple[Any, Int[Tensor, "v s"]]:
    """The model and the tokens, cut behind the last token of the longest text.

    Attention in these towers is causal and the embedding is read at the end-of-text token, so
    the padding behind it cannot matter; a word costs a tenth of a full context. Other towers
    come back as they are. The cut model shares all weights and leaves the original untouched.
    """
    if not isinstance(model, open_clip.CLIP) or model.text_pool_type != "argmax":
        return model, tokens
    if model.attn_mask is None:
        return model, tokens
    length = int(tokens.argmax(dim=-1).max()) + 1
    cut = copy.copy(model)
    positions = nn.Parameter(model.positional_embedding[:length], requires_grad=False)
    cut._parameters = model._parameters | {"positional_embedding": positions}
    cut._buffers = model._buffers | {"attn_mask": model.attn_mask[:length, :length]}
    return cut, tokens[:, :length]


def _check_templates(templates: Sequence[str]) -> None:
    bad = [template for template in templates if "{}" not in template]
    if bad or not templates:
        raise InvalidInput(
            f"Each template needs '{{}}' where the text goes; got {list(templates)!r}."
        )


def load_encoder(spec: str = "mini", *, device: str = "auto", precision: str = "auto") -> Encoder:
    """The encoder that `spec` names.

    Args:
        spec: `mini`, `ARCHITECTURE:TAG` (as open_clip lists them),
            `ARCHITECTURE:/path/to/weights.safetensors`, `ARCHITECTURE:TAG@/path/to/weights`,
            `ORG/NAME` (on the Hugging Face hub), `local-dir:FOLDER`, `bcos:DIR` and `guided:DIR`
            for what `dncbm bcosify` and `dncbm guide` wrote, whose texts are those of the encoder
            that they were made of, or `trained:DIR` (or DIR alone) for what `dncbm distill` or
            `dncbm pretrain` wrote. An architecture alone stands for its only tag. A tag says how
            pixels are normalised; beside a weights file it may be left out where all tags agree.
        device: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto` for a CUDA GPU where there is one, else
            the processor; `mps` is never chosen by itself, since its results were not checked.
        precision: `fp32`, `fp16`, `bf16`, or `auto`: fp16 on a GPU, fp32 elsewhere, where
            results are repeatable bit by bit.

    Raises:
        UnknownName: unknown architecture, tag or precision; with the nearest names.
        InvalidInput: a missing or unfitting checkpoint, or an unusable device.
        Unavailable: weights that must be fetched, without a network; a package is missing.
        ArtifactError: a `bcos:DIR`, `guided:DIR` or `trained:DIR` that is none, is damaged, or was
            made of another encoder.
    """
    scheme, _, folder = spec.partition(":")
    if scheme in (BCOS, GUIDED) and folder:
        return _load_retrained(spec, scheme, Path(folder).expanduser(), device, precision)  # type: ignore[arg-type]
    if (trained := trained_folder(spec)) is not None:
        return _load_trained(spec, trained, device, precision)
    resolved = parse_spec(spec)
    device = resolve_device(device)
    precision = _precision(precision, device)
    recipe = recipe_of(resolved)
    with fetching(resolved):
        model = created(resolved, recipe)
        tokenizer = tokenizer_of(resolved)
        config = open_clip.get_model_config(resolved.model_name)
    if recipe.get("quick_gelu"):  # as in the configurations of the `-quickgelu` architectures
        config["quick_gelu"] = True
    if resolved.pretrained is not None and resolved.recipe is None and spec != MINI:
        tell_assumed(resolved, config, preprocess_config(model))
    mark = fingerprint_of(config, preprocess_config(model), model, tokenizer)
    return Encoder(spec, model, tokenizer, fingerprint=mark, device=device, precision=precision)


def load_encoder_of(
    model: Path, spec: str, expected: str | None, *,
    device: str = "auto", precision: str = "auto", own: Path | None = None,
) -> Encoder:  # fmt: skip
    """The encoder that what lies in the directory `model` was made with.

    A copy beside it comes before the original, see `dncbm.encoders.carried`. Where none is right,
    another comes back: compare the fingerprint.

    Args:
        model: directory.
        spec: what it calls the encoder.
        expected: fingerprint of the encoder that it was made with.
        device: see `load_encoder`.
        precision: see `load_encoder`.
        own: an artifact in that directory which was made of the encoder.
    """
    *others, last = candidates(spec, model, own)
    for candidate in others:
        encoder = load_encoder(candidate, device=device, precision=precision)
        if encoder.fingerprint == expected:
            return encoder
    return load_encoder(last, device=device, precision=precision)


def _load_retrained(
    spec: str, kind: NetworkKind, folder: Path, device: str, precision: str
) -> Encoder:
    """The encoder that a tower was made of, with that tower."""
    path = folder if (folder / MANIFEST).is_file() else folder / kind
    blueprint = blueprint_of(path, kind)
    if blueprint.family != "encoder":
        raise InvalidInput(f"{path} is a classifier of photos, not an image-text encoder.")
    base = load_encoder_of(
        path.parent, blueprint.name, load_manifest(path, kind).inputs.get("model"),
        device=device, precision=precision, own=path,
    )  # fmt: skip
    tower = load_bcos(path, original=base.image_tower(), kind=kind)
    require_input(
        tower.manifest, "model", base.fingerprint,
        artifact=str(path), remedy=f"Put back the {blueprint.name} that it was made of.",
    )  # fmt: skip
    mark = fingerprint([tower.manifest.fingerprint, base.fingerprint])
    return base.with_image_tower(tower.network, spec=spec, fingerprint=mark)


def _load_trained(spec: str, path: Path, device: str, precision: str) -> Encoder:
    """An image tower that was trained here, with the texts that it goes with."""
    found = load_tower(path)
    if found.text is None:
        device = resolve_device(device)
        return Encoder(
            spec, ImagesAlone(found), None, fingerprint=found.manifest.fingerprint,
            device=device, precision=_precision(precision, device),
        )  # fmt: skip
    origin = found.text.encoder
    if origin.startswith(f"{SCRATCH}:"):
        bare = origin.removeprefix(f"{SCRATCH}:")
        base = untrained_encoder(bare, device=device, precision=precision)
    else:
        base = load_encoder_of(
            path.parent, origin, found.text.fingerprint,
            device=device, precision=precision, own=path,
        )  # fmt: skip
    if base.fingerprint != found.text.fingerprint:
        raise ArtifactMismatch(
            f"{path} takes its texts from {found.text.encoder}, which is another encoder now. "
            "Put back the one that it was made with."
        )
    return base.with_image_tower(
        found.tower, spec=spec, fingerprint=fingerprint([found.manifest.fingerprint]),
        preprocess=found.preprocess, texts=found.text_weights,
    )  # fmt: skip


def untrained_encoder(name: str, *, device: str = "cpu", precision: str = "fp32") -> Encoder:
    """A model with random weights, to be trained: an open_clip architecture, or `mini`."""
    model, tokenizer, mark = untrained(name)
    return Encoder(
        f"{SCRATCH}:{name}", model, tokenizer, fingerprint=mark, device=resolve_device(device),
        precision=_precision(precision, resolve_device(device)),
    )  # fmt: skip


def _precision(name: str, device: str) -> str:
    if name == "auto":
        return "fp16" if device.startswith("cuda") else "fp32"
    if name not in _PRECISIONS:
        raise UnknownName("precision", name, ["auto", *_PRECISIONS])
    if name == "bf16" and not native_bfloat16(device):
        _log.warning("%s does not multiply bf16 itself: expect it to be slower than fp32.", device)
    return name
