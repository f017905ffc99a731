"""What a job that came over the network may read: the data folder, and nothing else.

Every path of a configuration becomes an absolute one, its links followed, below the data folder
(weights: or below the model root). Addresses and names that would be fetched are refused unless
the installation allows them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dncbm.errors import InvalidInput
from dncbm.jobs.places import Places

_BUILT_IN = ("mini",)
_SCRATCH = "scratch:"
_FOLDERS = ("local-dir", "bcos", "guided", "trained")
_MOST = {
    "workers": 64,
    "train_workers": 256,
    "batch_size": 16_384,
    "examples": 100,
    "world_images": 1_000_000,
}
"""Upper bounds of what costs processes, memory or disk."""


def confined(config: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """The configuration with absolute paths that lie where they may.

    Raises:
        InvalidInput: a path outside, an address, a name to fetch, or a number out of bounds.
    """
    out = dict(config)
    for name in ("data", "vocabulary"):
        if out.get(name) is not None:
            out[name] = str(_inside(name, out[name], places.data))
    if out.get("dataset") is not None:
        out["dataset"] = _dataset(out["dataset"], places)
    for name in ("encoder", "model", "teacher"):
        if out.get(name) is not None:
            out[name] = _network(name, out[name], places)
    for name, most in _MOST.items():
        value = out.get(name)
        if isinstance(value, int) and value > most:
            raise InvalidInput(f"{name} is {value}; it may be at most {most} in a job.")
    naming = out.get("naming")
    if isinstance(naming, Mapping) and naming.get("proposer") and not places.network:
        raise InvalidInput(f"naming.proposer would ask another service. {_ALLOW}")
    return out


_ALLOW = "Such jobs are allowed with DNCBM_JOBS_NETWORK=true, or with `dncbm jobs submit`."


def _inside(name: str, value: Any, *roots: Path | None) -> Path:
    """A path below one of the roots that exists; relative ones are taken from the first."""
    if not isinstance(value, str):
        raise InvalidInput(f"{name} is {value!r}; it must be a text.")
    known = [root for root in roots if root is not None]
    if "\0" in value:
        raise InvalidInput(f"{name} is {value[:200]!r}; a path has no zero bytes.")
    if not known:
        raise InvalidInput(
            f"{name} is {value[:200]!r}, but this service reads no data: no data folder is set. "
            "Start it with DNCBM_DATA_DIR, or use `dncbm jobs submit`."
        )
    path = Path(value)
    if "://" in value or value.partition(":")[0] in ("hf", "torchvision"):
        raise InvalidInput(f"{name} is {value[:200]!r}; it must be a path in the data folder.")
    if ".." in path.parts:
        raise InvalidInput(f"{name} is {value[:200]!r}; a path must not hold '..'.")
    found = [Path(os.path.realpath(root / path)) for root in known]
    inside = [place for place in found if any(place.is_relative_to(root) for root in known)]
    if not inside:
        raise InvalidInput(
            f"{name} is {value[:200]!r}, which lies outside the data folder. Give a path relative "
            "to it."
        )
    here = [place for place in inside if os.path.exists(place)]
    if not here:
        raise InvalidInput(f"{name} is {value[:200]!r}; there is no such file in the data folder.")
    return here[0]


def _dataset(value: Any, places: Places) -> str:
    text = str(value)
    if "\0" in text:
        raise InvalidInput(f"dataset is {text[:200]!r}; a name has no zero bytes.")
    folder = text.removeprefix("hf:")
    saved = places.data is not None and folder and os.path.isdir(places.data / folder)
    if saved and not text.startswith("torchvision:"):
        return f"hf:{_inside('dataset', folder, places.data)}"
    if places.network:
        # what the library would open as a folder of this machine is no name to fetch
        if os.path.exists(os.path.expanduser(folder)):
            raise InvalidInput(f"dataset is {text[:200]!r}, which lies outside the data folder.")
        return text
    raise InvalidInput(f"dataset is {text[:200]!r}, which would have to be fetched. {_ALLOW}")


def _network(name: str, value: Any, places: Places) -> str:
    """An encoder or classifier whose weights are here, or may be fetched."""
    text = str(value)
    if "\0" in text:
        raise InvalidInput(f"{name} is {text[:200]!r}; a name has no zero bytes.")
    if text in _BUILT_IN or text.startswith(_SCRATCH):
        return text
    roots = (places.data, places.models)
    scheme, _, rest = text.partition(":")
    if scheme in _FOLDERS:
        return f"{scheme}:{_inside(name, rest, *roots)}"
    for mark in ("@", ":"):  # ARCH:TAG@FILE, ARCH:FILE
        before, found, path = text.partition(mark)
        if found and path and _names_a_file(path, places):
            return f"{before}{mark}{_inside(name, path, *roots)}"
    if places.network:
        return text
    raise InvalidInput(
        f"{name} is {text[:200]!r}, whose weights would have to be fetched. Give `mini`, or "
        f"ARCHITECTURE:FILE with a file of the data folder. {_ALLOW}"
    )


def _names_a_file(path: str, places: Places) -> bool:
    """Whether the weights are a file, here or anywhere: only then is it judged as one."""
    if os.path.exists(os.path.expanduser(path)) or ".." in Path(path).parts:
        return True
    roots = [root for root in (places.data, places.models) if root is not None]
    return any(os.path.exists(root / path) for root in roots)
