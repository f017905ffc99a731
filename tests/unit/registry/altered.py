"""A second model that differs from the first in what is known."""

import dataclasses
import shutil
from pathlib import Path

from dncbm.naming.dictionary import load_dictionary, save_dictionary
from dncbm.naming.space import NamingSpace
from dncbm.probe.model import Probe
from dncbm.probe.store import load_cbm, save_cbm
from dncbm.probe.train import TrainedProbe


def write_altered(first: Path, second: Path) -> None:
    """Concept 11 points the other way, 3 has another name, and weight 3 of class 1 is 2 larger."""
    shutil.copytree(first, second)
    old, cbm = load_dictionary(first / "dictionary"), load_cbm(first / "cbm")
    directions = old.directions.clone()
    directions[11] *= -1
    names = list(old.names)
    names[3] = dataclasses.replace(names[3], name="another")
    made = save_dictionary(
        second / "dictionary",
        directions=directions,
        names=names,
        space=NamingSpace(directions, old.space.word_mean),
        statistics=old.statistics,
        examples=old.examples,
        config=old.manifest.config,
        inputs=old.manifest.inputs,
    )
    weights = cbm.probe.weights.clone()
    weights[1, 3] += 2
    trained = TrainedProbe(
        probe=Probe(weights, cbm.probe.bias, cbm.classes),
        nec_probes=cbm.nec_probes,
        temperatures=cbm.temperatures,
        metrics={"accuracy": {"test": {"dense": 0.75}}},
        history=[],
    )
    inputs = cbm.manifest.inputs | {"dictionary": made.fingerprint}
    save_cbm(second / "cbm", trained, config=cbm.manifest.config, inputs=inputs)
