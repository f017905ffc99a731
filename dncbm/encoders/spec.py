"""Which encoder a text such as `ViT-B-32:openai` means, and whether it can be had."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import open_clip

from dncbm.artifacts import OPEN_CLIP_CONFIG
from dncbm.encoders.hub_ids import OPEN_CLIP_NAMES
from dncbm.errors import InvalidInput, Unavailable, UnknownName

MINI = "mini"
BCOS: Final = "bcos"
"""Scheme of B-cosified encoders, and the artifact's name within a model directory."""
GUIDED: Final = "guided"
"""Scheme of encoders with a guided image tower, and the artifact's name."""
MINI_FOLDER = Path(__file__).parent / "mini"
_SCHEMES = ("hf-hub", "local-dir")
_PATH_SIGNS = frozenset("/\\.")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HELP = (
    "An encoder is `mini`, ARCHITECTURE:TAG, ARCHITECTURE:/path/to/weights.safetensors, "
    "ARCHITECTURE:TAG@/path/to/weights, ORG/NAME on the Hugging Face hub, local-dir:FOLDER, "
    "bcos:DIR or guided:DIR as `dncbm bcosify` and `dncbm guide` write them, or DIR as "
    "`dncbm distill` or `dncbm pretrain` does."
)


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """A resolved encoder: what open_clip is asked for."""

    text: str
    """As the user wrote it."""
    model_name: str
    """Architecture, or a name with a scheme (`hf-hub:...`, `local-dir:...`)."""
    pretrained: str | None
    """Tag or checkpoint file; None where the scheme brings the weights."""
    recipe: str | None = None
    """The tag whose preprocessing and activation apply; None where no tag tells."""
    tokenizer_merges: Path | None = None
    """A byte-pair file of its own."""

    @property
    def architecture(self) -> str:
        """Name to put before a checkpoint file; a placeholder where a scheme hides it."""
        return "ARCHITECTURE" if ":" in self.model_name else self.model_name

    @property
    def is_tag(self) -> bool:
        """Whether the weights are named by one of open_clip's tags."""
        return self.pretrained is not None and not Path(self.pretrained).is_file()


def parse_spec(text: str) -> EncoderSpec:
    """The encoder that `text` names.

    An architecture by itself stands for its only tag; with several tags one must be chosen.

    Raises:
        UnknownName: an unknown architecture or tag; the message has the nearest ones.
        InvalidInput: a path that is not there, or no weights to load.
        Unavailable: `mini` is not part of this installation.
    """
    if text == MINI:
        return _mini()
    scheme, _, rest = text.partition(":")
    if scheme in _SCHEMES and rest:
        return _with_scheme(text, scheme, rest)
    # open_clip accepts the slashes of older names (ViT-B/32).
    model_name = scheme.replace("/", "-")
    known = open_clip.list_models()
    if model_name not in known:
        if _HUB_ID.fullmatch(text):
            return _on_hub(text, text)
        raise UnknownName("encoder", text, _candidates(known, with_tags=bool(rest)), _HELP)
    pretrained, recipe = _weights(text, model_name, rest)
    return EncoderSpec(text, model_name, pretrained, recipe)


def _candidates(models: list[str], *, with_tags: bool) -> list[str]:
    return [MINI, *(open_clip.list_pretrained(as_str=True) if with_tags else models)]


def _mini() -> EncoderSpec:
    """The bundled encoder: one model config, weights and merges in the folder `mini`."""
    configs = sorted(MINI_FOLDER.glob("*.json"))
    merges = sorted(MINI_FOLDER.glob("*.gz"))
    weights = MINI_FOLDER / "model.safetensors"
    if not configs or not merges or not weights.is_file():
        raise Unavailable(
            f"The bundled encoder `mini` is incomplete in {MINI_FOLDER}. Install dncbm again, or "
            "choose another encoder."
        )
    name = configs[0].stem
    if name not in open_clip.list_models():
        open_clip.add_model_config(configs[0])
    return EncoderSpec(MINI, name, str(weights), tokenizer_merges=merges[0])


def _with_scheme(text: str, scheme: str, rest: str) -> EncoderSpec:
    if scheme == "hf-hub":
        return _on_hub(text, rest)
    if not (Path(rest) / OPEN_CLIP_CONFIG).is_file():
        raise InvalidInput(
            f"{rest} has no {OPEN_CLIP_CONFIG}. local-dir: needs a folder with that file and "
            "the weights, as open_clip and the hub store it."
        )
    return EncoderSpec(text, text, None)


def _on_hub(text: str, name: str) -> EncoderSpec:
    """A model of the hub, by the name that open_clip has for it where there is one."""
    if name.lower() in OPEN_CLIP_NAMES:
        model_name, tag = OPEN_CLIP_NAMES[name.lower()]
        return EncoderSpec(text, model_name, tag, tag)
    return EncoderSpec(text, f"hf-hub:{name}", None)


def _weights(text: str, model_name: str, wanted: str) -> tuple[str, str | None]:
    """The tag or checkpoint file for an architecture, and the tag that tells its recipe."""
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if not wanted:
        if len(tags) == 1:
            return tags[0], tags[0]
        raise InvalidInput(_which_weights(model_name, tags))
    if open_clip.is_pretrained_cfg(model_name, wanted):
        return wanted, wanted
    if Path(wanted).is_file():
        return wanted, _common_recipe(model_name, tags)
    tag, at, file = wanted.partition("@")
    if at and not _PATH_SIGNS.intersection(tag):
        if not open_clip.is_pretrained_cfg(model_name, tag):
            raise UnknownName(f"pretrained tag of {model_name}", tag, tags, _HELP)
        if Path(file).is_file():
            return file, tag
        wanted = file
    if at or _PATH_SIGNS.intersection(wanted):
        raise InvalidInput(f"The checkpoint {wanted} of encoder {text!r} does not exist.")
    raise UnknownName(f"pretrained tag of {model_name}", wanted, tags, _HELP)


def _common_recipe(model_name: str, tags: list[str]) -> str | None:
    """A tag, if all tags of an architecture mean the same preprocessing and activation."""
    sources = ("url", "hf_hub")
    recipes = [
        {"quick_gelu": False}
        | {
            k: v
            for k, v in open_clip.get_pretrained_cfg(model_name, tag).items()
            if k not in sources
        }
        for tag in tags
    ]
    return tags[0] if tags and all(recipe == recipes[0] for recipe in recipes) else None


def _which_weights(model_name: str, tags: list[str]) -> str:
    if not tags:
        return (
            f"{model_name} has no published weights. "
            f"Give a file: {model_name}:/path/to/weights.safetensors."
        )
    shown = ", ".join(f"{model_name}:{tag}" for tag in tags[:12])
    return f"{model_name} has {len(tags)} sets of weights. Choose one: {shown}."
