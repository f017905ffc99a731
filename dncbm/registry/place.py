"""Where the registry of a model root lies when nothing else is said."""

from pathlib import Path

from dncbm.artifacts import writing
from dncbm.database import Database
from dncbm.errors import InvalidInput
from dncbm.registry.store import RegistryStore

STATE = ".dncbm"
DATABASE = "dncbm.sqlite"


def state_folder(root: Path, state: Path | None = None) -> Path:
    """The folder of everything that a service remembers, made if there is none.

    Args:
        root: of the models.
        state: another folder than `.dncbm` in the root.

    Raises:
        InvalidInput: the root is not a directory.
        Unavailable: the folder cannot be written.
    """
    if not root.is_dir():
        raise InvalidInput(f"{root} is not a directory. Give the folder of the models.")
    folder = (root / STATE if state is None else state).resolve()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_store(root: Path, state: Path | None = None, url: str | None = None) -> RegistryStore:
    """The registry of a model root, made if there is none.

    Args:
        root: a model directory, or a folder of several.
        state: folder of the database; default `<root>/.dncbm`.
        url: of another database.
    """
    url = url or f"sqlite:///{state_folder(root, state) / DATABASE}"
    return RegistryStore(Database(url), root)
