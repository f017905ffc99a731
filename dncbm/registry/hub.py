"""Models on the Hugging Face hub: a bundle as the files of a repository."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dncbm.data.network import hub_reachable
from dncbm.errors import DncbmError, InvalidInput, Unavailable
from dncbm.registry.bundle import CARD, CONFIG, RECIPE, SUMS, export_model
from dncbm.registry.reading import KINDS
from dncbm.registry.unpack import Limits, import_model

PREFIX = "hf:"
_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_PARTS = [SUMS, CARD, CONFIG, RECIPE, *(f"{kind}/*" for kind in KINDS)]


def repository(address: str) -> str:
    """`owner/name` of `hf:owner/name`.

    Raises:
        InvalidInput: of another form.
    """
    name = address.removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{address!r} names no repository of the hub. Give hf:OWNER/NAME.")
    return name


def push_model(
    folder: str | Path,
    address: str,
    *,
    private: bool = True,
    training: bool = True,
    token: str | None = None,
) -> str:
    """Write a model directory into a repository, made if there is none; the commit's address.

    Args:
        folder: a finished model directory.
        address: `hf:owner/name`.
        private: who may see a new repository: a dictionary shows small training photos.
        training: include embeddings and vocabulary, which only further stages need.
        token: of the hub; default: that of `hf auth login`.

    Raises:
        ArtifactError: not a finished model, or damaged.
        Unavailable: no network, or the hub refuses.
    """
    name = repository(address)
    import huggingface_hub as hub

    with tempfile.TemporaryDirectory(prefix="dncbm-push-") as scratch:
        bundle = export_model(folder, Path(scratch) / "bundle", training=training, source=address)
        with _asking(f"Writing {address}"):
            hub.create_repo(name, repo_type="model", private=private, exist_ok=True, token=token)
            commit = hub.upload_folder(
                repo_id=name,
                folder_path=str(bundle),
                repo_type="model",
                token=token,
                commit_message="A model of dncbm",
                delete_patterns=[f"{kind}/*" for kind in KINDS],  # of the model before
            )
    return str(getattr(commit, "commit_url", commit))


def pull_model(
    address: str,
    root: str | Path,
    *,
    name: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    limits: Limits | None = None,
) -> Path:
    """Put the model of a repository below `root`, checked as every import is.

    Args:
        address: `hf:owner/name`.
        root: the folder of the models.
        name: of the new directory; default: that of the repository.
        revision: branch, tag or commit.
        token: of the hub; default: that of `hf auth login`.
        limits: the most that is taken in.

    Raises:
        InvalidInput: no model of dncbm, or a directory of this name exists.
        ArtifactError: a checksum, a manifest or a fingerprint is not right.
        Unavailable: no network, or the hub refuses.
    """
    repo = repository(address)
    import huggingface_hub as hub

    with tempfile.TemporaryDirectory(prefix="dncbm-pull-") as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        with _asking(f"Reading {address}"):
            hub.snapshot_download(
                repo, repo_type="model", revision=revision, local_dir=str(folder),
                allow_patterns=_PARTS, token=token,
            )  # fmt: skip
        return import_model(folder, root, name=name or repo.partition("/")[2], limits=limits)


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """The hub's refusals and silence as errors of ours."""
    if not hub_reachable():
        raise Unavailable(
            f"{what} needs the Hugging Face hub, which cannot be reached. Connect to the network, "
            "or carry the model as a file: `dncbm export MODEL --out MODEL.zip`."
        )
    try:
        yield
    except DncbmError:
        raise
    except Exception as error:  # the hub's client raises errors of several libraries
        reason = " ".join(str(error).split())[:300]
        raise Unavailable(
            f"{what} failed: {reason}. Check the name and your rights (`hf auth login`), then try "
            "again."
        ) from error
