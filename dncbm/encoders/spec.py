"""Which encoder a text such as `ViT-B-32:openai` means, and whether it can be had."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import open_clip

from dncbm.data.network import hub_cache_only, hub_reachable
from dncbm.errors import InvalidInput, Unavailable, UnknownName

MINI = "mini"
MINI_FOLDER = Path(__file__).parent / "mini"
_SCHEMES = ("hf-hub", "local-dir")
_HELP = (
    "An encoder is `mini`, ARCHITECTURE:TAG, ARCHITECTURE:/path/to/weights.safetensors, "
    "hf-hub:ORG/NAME or local-dir:FOLDER."
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
        raise UnknownName("encoder", text, _candidates(known, with_tags=bool(rest)), _HELP)
    return EncoderSpec(text, model_name, _weights(text, model_name, rest))


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
    return EncoderSpec(MINI, name, str(weights), merges[0])


def _with_scheme(text: str, scheme: str, rest: str) -> EncoderSpec:
    if scheme == "local-dir" and not (Path(rest) / "open_clip_config.json").is_file():
        raise InvalidInput(
            f"{rest} has no open_clip_config.json. local-dir: needs a folder with that file and "
            "the weights, as open_clip and the hub store it."
        )
    return EncoderSpec(text, text, None)


def _weights(text: str, model_name: str, wanted: str) -> str:
    """The tag or checkpoint file for an architecture."""
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if not wanted:
        if len(tags) == 1:
            return tags[0]
        raise InvalidInput(_which_weights(model_name, tags))
    if open_clip.is_pretrained_cfg(model_name, wanted) or Path(wanted).is_file():
        return wanted
    if "/" in wanted or "\\" in wanted or "." in wanted:
        raise InvalidInput(f"The checkpoint {wanted} of encoder {text!r} does not exist.")
    raise UnknownName(f"pretrained tag of {model_name}", wanted, tags, _HELP)


def _which_weights(model_name: str, tags: list[str]) -> str:
    if not tags:
        return (
            f"{model_name} has no published weights. "
            f"Give a file: {model_name}:/path/to/weights.safetensors."
        )
    shown = ", ".join(f"{model_name}:{tag}" for tag in tags[:12])
    return f"{model_name} has {len(tags)} sets of weights. Choose one: {shown}."


@contextmanager
def fetching(spec: EncoderSpec) -> Iterator[None]:
    """Run open_clip's loading: quiet, from the local cache where there is no network.

    Raises:
        Unavailable: the weights are not stored here and there is no network.
        InvalidInput: the weights cannot be read or do not fit the architecture.
    """
    needs_hub = spec.is_tag or spec.model_name.startswith("hf-hub:")
    offline = needs_hub and not hub_reachable()
    try:
        with _quiet(), hub_cache_only(offline):
            yield
    except Exception as error:
        if offline:
            raise Unavailable(
                f"The encoder {spec.text!r} is not stored on this machine and there is no network "
                "to fetch it. Connect once, give weights that you have "
                f"({spec.architecture}:/path/to/weights.safetensors or "
                "local-dir:FOLDER), or use the bundled encoder `mini`."
            ) from error
        reason = str(error).strip().splitlines()[:1]
        raise InvalidInput(
            f"The encoder {spec.text!r} cannot be loaded: {' '.join(reason)[:300]}. Check that "
            "the weights are complete and belong to this architecture."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip's and the hub's messages from users; failures are raised anyway."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "timm")]
    levels = [logger.level for logger in loggers]
    # open_clip logs to the root logger, which is not ours to configure: a filter is undone.
    handlers = list(logging.getLogger().handlers)
    root = logging.getLogger()
    root.addFilter(_from_open_clip)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.removeFilter(_from_open_clip)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for handler in set(root.handlers) - set(handlers):
            root.removeHandler(handler)


def _from_open_clip(record: logging.LogRecord) -> bool:
    return "open_clip" not in record.pathname
