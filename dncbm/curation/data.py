"""The labelled codes of a model directory: what edits are measured and refitted on."""

import logging
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import final

from dncbm.artifacts import MANIFEST, fingerprint, require_input
from dncbm.encoders.artifact import load_embeddings
from dncbm.encoders.labelled import labelled_rows
from dncbm.errors import InvalidInput, Unavailable
from dncbm.probe.interventions import trained_without
from dncbm.probe.metrics import fit_temperature, probe_logits
from dncbm.probe.model import Probe
from dncbm.probe.splits import Split, Splits, prepare_splits
from dncbm.probe.store import Cbm, load_cbm, save_cbm
from dncbm.probe.train import DENSE, ProbeConfig, TrainedProbe
from dncbm.sae.encode import encode_rows
from dncbm.sae.rows import ShardRows
from dncbm.sae.store import load_sae

logger = logging.getLogger(__name__)


@final
class ModelData:
    """Train and validation codes as the bottleneck of a model directory was fitted on.

    They are read when they are first needed, and kept as long as this object.

    Args:
        path: the model directory, with `embeddings` and `sae`.
        cbm: its bottleneck, unedited.
        cache: folder of refitted bottlenecks, which are fitted once.
    """

    def __init__(self, path: Path, cbm: Cbm, cache: Path) -> None:
        self._path, self._cbm, self._cache = path, cbm, cache

    @property
    def config(self) -> ProbeConfig:
        """How the bottleneck was fitted."""
        known = ProbeConfig.__dataclass_fields__
        return ProbeConfig(**{k: v for k, v in self._cbm.config.items() if k in known})

    @cached_property
    def splits(self) -> Splits:
        """Codes and labels by split; validation is what it was when the probe was fitted.

        Raises:
            Unavailable: the model directory has no embeddings any more.
            ArtifactMismatch: embeddings or autoencoder are others than the bottleneck's.
        """
        folder = self._path / "embeddings"
        if not (folder / MANIFEST).is_file():
            raise Unavailable(
                f"{folder} is gone: edits that change decisions are measured and refitted on the "
                "embeddings of the model. Put them back, or run `dncbm embed` again."
            )
        embeddings, sae = load_embeddings(folder), load_sae(self._path / "sae")
        for role, manifest in (("embeddings", embeddings.manifest), ("sae", sae.manifest)):
            require_input(
                self._cbm.manifest,
                role,
                manifest.fingerprint,
                artifact=f"The bottleneck of {self._path}",
                remedy="Put the parts that it was made with back, or run `dncbm bottleneck` again.",
            )
        classes = self._cbm.classes
        data = {k: v for k, v in labelled_rows(embeddings, classes).items() if len(v[0])}
        return prepare_splits(
            {
                split: encode_rows(sae.model, ShardRows(embeddings.shards, rows))
                for split, (rows, _) in data.items()
            },
            {split: labels for split, (_, labels) in data.items()},
            classes,
            options=self.config.hold_out_options(),
            dtype=self.config.precision,
        )

    @property
    def validation(self) -> Split:
        """Codes and labels of the validation split.

        Raises:
            InvalidInput: the model was fitted without.
        """
        if self.splits.validation is None:
            raise InvalidInput(
                "The model has no validation images, on which edits are measured. Train it on "
                "more images, or with a validation split."
            )
        return self.splits.validation

    def recalibrated(self, cbm: Cbm) -> Cbm:
        """The bottleneck with the temperature of each head fitted on validation."""
        found = self.validation
        temperatures = {
            name: fit_temperature(probe_logits(head, found.matrix), found.labels)
            for name, head in heads(cbm).items()
        }
        return replace(cbm, temperatures=temperatures)

    def refit(self, cbm: Cbm, removed: frozenset[int]) -> Cbm:
        """All heads fitted again as they were, without the removed concepts; kept on disk.

        Raises:
            InvalidInput: no concept is left.
        """
        config = {**self._cbm.config, "removed": sorted(removed)}
        origin = {"cbm": self._cbm.manifest.fingerprint}
        path = self._cache / fingerprint([config, origin])[:32]
        if not (path / MANIFEST).is_file():
            save_cbm(path, self._refitted(removed), config=config, inputs=origin)
        found = load_cbm(path)
        return replace(
            cbm,
            probe=found.probe,
            nec_probes=found.nec_probes,
            temperatures=found.temperatures,
        )

    def _refitted(self, removed: frozenset[int]) -> TrainedProbe:
        named = self.splits.named()
        logger.info("Refit of %s without %d concepts", self._path, len(removed))
        return trained_without(
            removed,
            {split: data.matrix for split, data in named.items()},
            {split: data.labels for split, data in named.items()},
            self._cbm.classes,
            self.config,
        )


def heads(cbm: Cbm) -> dict[str, Probe]:
    """All heads by name: `dense`, then `nec5`, ..."""
    return {DENSE: cbm.probe} | {f"nec{nec}": head for nec, head in cbm.nec_probes.items()}
