"""A small bottleneck with its embeddings on disk, and databases."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dncbm.artifacts import create_artifact
from dncbm.curation.apply import Edited
from dncbm.encoders.artifact import ITEMS, ITEMS_SCHEMA, SHARDS, load_embeddings
from dncbm.encoders.clip import Encoder
from dncbm.naming.dictionary import load_dictionary, save_dictionary
from dncbm.naming.space import NamingSpace
from dncbm.probe.store import load_cbm, save_cbm
from dncbm.probe.train import ProbeConfig, train_probe
from dncbm.sae.activations import TopK
from dncbm.sae.encode import encode_rows
from dncbm.sae.model import SaeModel
from dncbm.sae.store import save_sae
from dncbm.types import ConceptName
from tests.postgres import database, postgres_server, postgres_url

__all__ = ["database", "postgres_server", "postgres_url"]

CLASSES = ("ant", "bee", "cat")
C, D = 24, 8
NAMES = ["leg", "wing", "fur", "wing", "eye (big eye)", "eye"]


def make_names() -> list[ConceptName]:
    groups = {1: 1, 3: 1, 4: 4, 5: 4}
    return [
        ConceptName(
            concept=c,
            name=NAMES[c] if c < len(NAMES) else f"concept {c}",
            score=0.5,
            margin=0.1,
            alternatives=(("other", 0.4),),
            status="named" if c < len(NAMES) else "unnamed",
            group=groups.get(c, c),
        )
        for c in range(C)
    ]


def write_embeddings(path: Path, splits: dict[str, int], width: int) -> None:
    draw = np.random.default_rng(5)
    centres = draw.normal(size=(len(CLASSES), width))
    kinds = [split for split, count in splits.items() for _ in range(count)]
    labels = np.arange(len(kinds)) % len(CLASSES)
    rows = (centres[labels] + 0.8 * draw.normal(size=(len(kinds), width))).astype(np.float32)
    with create_artifact(path, "embeddings", config={}, inputs={}) as draft:
        (draft.path / SHARDS).mkdir()
        np.save(draft.path / SHARDS / "00000.npy", rows)
        items = [
            {
                "id": f"{row}.jpg",
                "path": f"{row}.jpg",
                "label": CLASSES[labels[row]],
                "split": split,
                "width": 8,
                "height": 8,
                "error": None,
                "row": row,
            }
            for row, split in enumerate(kinds)
        ]
        pq.write_table(pa.Table.from_pylist(items, schema=ITEMS_SCHEMA), draft.path / ITEMS)


def write_model(
    root: Path, splits: dict[str, int] | None = None, encoder: Encoder | None = None
) -> Path:
    """A model directory; its probe is really fitted, to embeddings that are made up."""
    width = encoder.embed_dim if encoder else D
    splits = splits or {"train": 150, "validation": 90, "test": 30}
    write_embeddings(root / "embeddings", splits, width)
    embeddings = load_embeddings(root / "embeddings")
    torch.manual_seed(1)
    sae = SaeModel(width, C, activation=TopK(4)).eval()
    origin = {
        "embeddings": embeddings.manifest.fingerprint,
        "encoder": encoder.fingerprint if encoder else "none",
    }
    sae_manifest = save_sae(root / "sae", sae, inputs=origin)
    density = np.full(C, 0.2)
    dictionary = save_dictionary(
        root / "dictionary",
        directions=sae.dictionary.detach(),
        names=make_names(),
        space=NamingSpace(sae.dictionary.detach(), torch.zeros(width)),
        statistics=pa.table(
            {"concept": np.arange(C), "density": density, "mean_code": density, "max_code": density}
        ),
        examples=pa.table(
            {"concept": [0], "rank": [0], "item_id": ["0.jpg"], "row": [0],
             "code": np.array([1.0], dtype=np.float32)}
        ),
        config={},
        inputs={"sae": sae_manifest.fingerprint},
    )  # fmt: skip
    labels = np.array([CLASSES.index(label) for label in embeddings.labels()])
    used = {s: embeddings.rows(s) for s in ("train", "validation", "test")}
    used = {split: rows for split, rows in used.items() if len(rows)}
    config = ProbeConfig(necs=(3,), path_points=8)
    trained = train_probe(
        {split: encode_rows(sae, embeddings.load(rows)) for split, rows in used.items()},
        {split: labels[rows] for split, rows in used.items()},
        CLASSES,
        config,
    )
    recorded = {
        "encoder": encoder.spec if encoder else "none",
        **{name: getattr(config, name) for name in ProbeConfig.__dataclass_fields__},
    }
    inputs = origin | {"sae": sae_manifest.fingerprint, "dictionary": dictionary.fingerprint}
    save_cbm(root / "cbm", trained, config=recorded, inputs=inputs)
    return root


def load_base(root: Path) -> Edited:
    return Edited(load_cbm(root / "cbm"), load_dictionary(root / "dictionary"))


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("curated") / "insects")


@pytest.fixture(scope="session")
def base(model_dir: Path) -> Edited:
    return load_base(model_dir)
