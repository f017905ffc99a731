"""Loading an encoder with open_clip: quietly, and with errors that say what to do."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError

import open_clip
from huggingface_hub.errors import LocalEntryNotFoundError

from dncbm.data.network import hub_cache_only, hub_reachable
from dncbm.encoders.spec import EncoderSpec
from dncbm.errors import InvalidInput, Unavailable


def _hub_part(spec: EncoderSpec) -> str | None:
    """The tokenizer or text tower that an architecture takes from the hub, whatever its weights."""
    config = open_clip.get_model_config(spec.model_name) if ":" not in spec.model_name else None
    text = (config or {}).get("text_cfg", {})
    return text.get("hf_tokenizer_name") or text.get("hf_model_name")


@contextmanager
def fetching(spec: EncoderSpec) -> Iterator[None]:
    """Run open_clip's loading: quiet, from the local cache where there is no network.

    Raises:
        Unavailable: a part is not stored here and there is no network, or a package is missing.
        InvalidInput: the weights cannot be read or do not fit the architecture.
    """
    part = _hub_part(spec)
    needs_hub = spec.is_tag or spec.model_name.startswith("hf-hub:") or part is not None
    offline = needs_hub and not hub_reachable()
    try:
        with _quiet(), hub_cache_only(offline):
            yield
    except Exception as error:
        chain = list(_causes(error))
        missing = next((cause for cause in chain if isinstance(cause, ImportError)), None)
        if missing is not None:
            raise Unavailable(_install(spec, missing)) from error
        if any(map(_is_no_network, chain)) or (offline and _without_weights(error)):
            raise Unavailable(_not_stored(spec, part)) from error
        reason = str(error).strip().splitlines()[:1]
        raise InvalidInput(
            f"The encoder {spec.text!r} cannot be loaded: {' '.join(reason)[:300]}. Check that "
            "the weights are complete and belong to this architecture."
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it; open_clip hides the first cause behind errors of its own."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_no_network(error: BaseException) -> bool:
    """Whether the hub was not reached: told by its client, or by the system below it."""
    kinds = (LocalEntryNotFoundError, ConnectionError, TimeoutError, socket.gaierror, URLError)
    return isinstance(error, kinds)


def _without_weights(error: Exception) -> bool:
    """open_clip only logs that the weights of an `hf-hub:` model are not there, then says this."""
    return str(error).startswith("Required pretrained weights")


def _install(spec: EncoderSpec, error: ImportError) -> str:
    package = (error.name or "transformers").partition(".")[0]
    return (
        f"The encoder {spec.text!r} needs the package {package}, which cannot be imported: "
        f"{str(error).strip().splitlines()[0]}. Install it: pip install {package}"
    )


def _not_stored(spec: EncoderSpec, part: str | None) -> str:
    if part is not None and not spec.is_tag:
        return (
            f"The weights of the encoder {spec.text!r} are here, but its tokenizer {part} comes "
            "from the Hugging Face hub, is not stored on this machine, and there is no network to "
            "fetch it. Connect once, give a folder that holds both (local-dir:FOLDER), or use the "
            "bundled encoder `mini`."
        )
    return (
        f"The encoder {spec.text!r} is not stored on this machine and there is no network "
        "to fetch it. Connect once, give weights that you have "
        f"({spec.architecture}:/path/to/weights.safetensors or "
        "local-dir:FOLDER), or use the bundled encoder `mini`."
    )


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
