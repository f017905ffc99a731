"""The `cbm` artifact: the probe with all its heads, what they achieve, what they came from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dncbm.artifacts import (
    Manifest,
    create_artifact,
    load_manifest,
    read_json,
    verify_files,
    write_json,
)
from dncbm.errors import ArtifactError, InvalidInput
from dncbm.probe.model import Probe
from dncbm.probe.train import DENSE, TrainedProbe

_TENSORS = "probe.safetensors"
_HEAD = "cbm.json"


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cbm:
    """A bottleneck as read from disk."""

    path: Path
    probe: Probe
    """The dense probe."""
    nec_probes: dict[int, Probe]
    """Head with at most that many concepts per class, by that number."""
    temperatures: dict[str, float]
    """By head: `dense`, `nec5`, ..."""
    metrics: dict[str, Any]
    manifest: Manifest

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the k classes, in the order of the logits."""
        return self.probe.classes

    @property
    def temperature(self) -> float:
        """Temperature of the dense probe: divide logits by it before the softmax."""
        return self.temperature_for(None)

    @property
    def config(self) -> dict[str, Any]:
        """How the bottleneck was trained."""
        return self.manifest.config

    def probe_for(self, nec: int | None) -> Probe:
        """The dense probe (None), or the head with at most `nec` concepts per class.

        Raises:
            InvalidInput: the model has no such head; the message lists those it has.
        """
        if nec is None:
            return self.probe
        self._check(nec)
        return self.nec_probes[nec]

    def temperature_for(self, nec: int | None) -> float:
        """Temperature of that head, fitted on validation; 1 where there was none.

        Raises:
            InvalidInput: the model has no such head.
        """
        if nec is not None:
            self._check(nec)
        return self.temperatures[_head_name(nec)]

    def _check(self, nec: int) -> None:
        if nec not in self.nec_probes:
            known = ", ".join(map(str, sorted(self.nec_probes))) or "none"
            raise InvalidInput(
                f"nec={nec} is not available. Available: {known}; leave nec out for the dense "
                "probe, or train with it among the wanted numbers."
            )


def _head_name(nec: int | None) -> str:
    return DENSE if nec is None else f"nec{nec}"


def save_cbm(
    path: Path,
    trained: TrainedProbe,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write the artifact at `path`, all at once.

    Args:
        path: directory; an artifact that stands there is replaced.
        trained: what `train_probe` returned.
        config: everything needed to train it again, the seed included.
        inputs: fingerprints by role: `encoder`, `sae`, `dictionary`, `embeddings`.
        metrics: stored instead of `trained.metrics`, for example with baselines added.

    Raises:
        Unavailable: disk full or not writable.
    """
    tensors = {"weights": trained.probe.weights.float(), "bias": trained.probe.bias.float()}
    for nec, head in trained.nec_probes.items():
        tensors |= _sparse_tensors(f"nec{nec}", head)
    head_data = {
        "classes": list(trained.probe.classes),
        "num_concepts": trained.probe.num_concepts,
        "necs": sorted(trained.nec_probes),
        "temperatures": trained.temperatures,
        "history": trained.history,
    }
    with create_artifact(path, "cbm", config=config, inputs=inputs) as draft:
        save_file({name: value.clone().contiguous() for name, value in tensors.items()},
                  draft.path / _TENSORS)  # fmt: skip
        write_json(draft.path / _HEAD, head_data)
        draft.metrics.update(trained.metrics if metrics is None else metrics)


def _sparse_tensors(name: str, probe: Probe) -> dict[str, Tensor]:
    weights = probe.weights.float()
    indices = weights.nonzero().T.contiguous()
    return {
        f"{name}.indices": indices,
        f"{name}.values": weights[indices[0], indices[1]],
        f"{name}.bias": probe.bias.float(),
    }


def load_cbm(path: str | Path) -> Cbm:
    """Read a `cbm` artifact.

    Raises:
        ArtifactError: not a `cbm` artifact, incomplete or damaged.
    """
    directory = Path(path)
    manifest = load_manifest(directory, "cbm")
    verify_files(directory, manifest)
    head = read_json(directory / _HEAD)
    try:
        tensors = load_file(directory / _TENSORS)
        classes = tuple(head["classes"])
        dense = Probe(tensors["weights"], tensors["bias"], classes)
        heads = {int(nec): _sparse_probe(f"nec{nec}", tensors, dense) for nec in head["necs"]}
    except (SafetensorError, KeyError, IndexError, TypeError, InvalidInput) as error:
        raise ArtifactError(
            f"{directory} is damaged: {error}. Train the bottleneck again."
        ) from error
    return Cbm(
        path=directory,
        probe=dense,
        nec_probes=heads,
        temperatures={name: float(value) for name, value in head["temperatures"].items()},
        metrics=manifest.metrics,
        manifest=manifest,
    )


def _sparse_probe(name: str, tensors: Mapping[str, Tensor], dense: Probe) -> Probe:
    weights = torch.zeros_like(dense.weights)
    rows, columns = tensors[f"{name}.indices"]
    weights[rows, columns] = tensors[f"{name}.values"]
    return Probe(weights, tensors[f"{name}.bias"], dense.classes)
