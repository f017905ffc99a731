"""A model directory of random weights: as fast as a trained one of the same sizes."""

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file

from dncbm.encoders.clip import load_encoder
from dncbm.naming.dictionary import EXAMPLE_SCHEMA, save_dictionary
from dncbm.naming.examples import concept_statistics
from dncbm.naming.space import NamingSpace
from dncbm.probe.model import Probe
from dncbm.probe.store import save_cbm
from dncbm.probe.train import TrainedProbe
from dncbm.sae.activations import TopK
from dncbm.sae.model import SaeModel
from dncbm.sae.store import save_sae
from dncbm.types import ConceptName

_CLASSES = tuple(f"class {number}" for number in range(10))
_ACTIVE = 32


def write_random_model(root: Path, encoder_name: str, concepts: int = 4096) -> Path:
    """A model on `mini`, or on an open_clip architecture with random weights, at `root`."""
    spec = encoder_name if encoder_name == "mini" else _random_weights(root, encoder_name)
    encoder = load_encoder(spec, device="cpu")
    torch.manual_seed(0)
    model = SaeModel(encoder.embed_dim, concepts, activation=TopK(_ACTIVE))
    sae = save_sae(root / "sae", model, inputs={"encoder": encoder.fingerprint})
    directions = model.dictionary.detach()
    dictionary = save_dictionary(
        root / "dictionary",
        directions=directions,
        names=[_name(concept) for concept in range(concepts)],
        space=NamingSpace(directions, torch.zeros(encoder.embed_dim)),
        statistics=concept_statistics(np.eye(concepts, dtype=np.float32)),
        examples=EXAMPLE_SCHEMA.empty_table(),
        config={},
        inputs={"sae": sae.fingerprint},
    )
    trained = TrainedProbe(
        probe=Probe(torch.randn(len(_CLASSES), concepts), torch.zeros(len(_CLASSES)), _CLASSES),
        nec_probes={},
        temperatures={"dense": 1.0},
        metrics={},
        history=[],
    )
    inputs = {"encoder": encoder.fingerprint, "sae": sae.fingerprint}
    inputs["dictionary"] = dictionary.fingerprint
    save_cbm(root / "cbm", trained, config={"encoder": encoder.spec}, inputs=inputs)
    return root


def _random_weights(root: Path, architecture: str) -> str:
    folder = root / "weights"
    folder.mkdir(parents=True)
    model = open_clip.create_model(architecture)
    config = {"model_cfg": open_clip.get_model_config(architecture)}
    config["preprocess_cfg"] = open_clip.get_model_preprocess_cfg(model)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, str(folder / "open_clip_model.safetensors"))
    return f"local-dir:{folder}"


def _name(concept: int) -> ConceptName:
    return ConceptName(
        concept=concept,
        name=f"concept {concept}",
        score=0.0,
        margin=0.0,
        alternatives=(),
        status="unnamed",
        group=concept,
    )
