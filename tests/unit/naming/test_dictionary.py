from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from dncbm.errors import ArtifactError, InvalidInput
from dncbm.naming.assign import name_dictionary
from dncbm.naming.config import naming_preset
from dncbm.naming.dictionary import load_dictionary, save_dictionary
from dncbm.naming.examples import concept_statistics, top_examples
from dncbm.naming.quality import naming_metrics
from dncbm.naming.space import NamingSpace
from dncbm.naming.vocabulary import Vocabulary
from tests.oracles.naming import centred, cosines, unit


@pytest.fixture
def parts(rng: np.random.Generator, vocabulary: Vocabulary) -> dict[str, Any]:
    directions = torch.from_numpy(rng.normal(size=(6, 12))).float()
    directions = directions / directions.norm(dim=1, keepdim=True)
    config = naming_preset("default", false_name_rate=0.5)
    naming = name_dictionary(directions, vocabulary, config=config)
    names = naming.names
    codes = np.maximum(rng.normal(size=(20, 6)), 0).astype(np.float32)
    codes[:, 4] = 0.0  # never fires
    return {
        "directions": directions,
        "names": names,
        "space": naming.space,
        "statistics": concept_statistics(codes),
        "examples": top_examples(codes, 3),
        "config": config.as_dict(),
        "inputs": {"encoder": "e" * 64, "sae": "s" * 64},
        "metrics": {"naming": naming_metrics(names)},
    }


def test_saved_and_loaded_the_same(tmp_path: Path, parts: dict[str, Any]) -> None:
    thumbnails = tmp_path / "small"
    thumbnails.mkdir()
    (thumbnails / "7.jpg").write_bytes(b"picture")
    manifest = save_dictionary(tmp_path / "d", **parts, thumbnails=thumbnails)
    loaded = load_dictionary(tmp_path / "d")
    assert loaded.names == parts["names"]
    assert torch.equal(loaded.space.directions, parts["space"].directions)
    assert torch.equal(loaded.space.word_mean, parts["space"].word_mean)
    assert torch.equal(loaded.directions, parts["directions"])
    assert loaded.statistics.equals(parts["statistics"])
    assert loaded.examples.equals(parts["examples"])
    assert loaded.manifest.fingerprint == manifest.fingerprint
    assert loaded.manifest.metrics["naming"]["num_concepts"] == 6
    assert loaded.thumbnail(7) == tmp_path / "d" / "thumbnails" / "7.jpg"
    assert loaded.thumbnail(8) is None


def test_concept_table_has_the_promised_columns(tmp_path: Path, parts: dict[str, Any]) -> None:
    save_dictionary(tmp_path / "d", **parts)
    table = pq.read_table(tmp_path / "d" / "concepts.parquet")
    assert set(table.column_names) == {
        "concept", "name", "score", "margin", "alternatives", "status", "density", "mean_code",
        "max_code", "group",
    }  # fmt: skip
    assert table["alternatives"][0].as_py()[0].keys() == {"name", "score"}


def test_parts_that_do_not_fit_are_refused(tmp_path: Path, parts: dict[str, Any]) -> None:
    broken = parts["directions"].clone()
    broken[0, 0] = float("inf")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"names": parts["names"][:-1]}, "5 names came for 6 directions"),
        ({"names": parts["names"][::-1]}, "out of order"),
        ({"statistics": parts["statistics"].slice(1)}, "Statistics have 5 rows for 6"),
        ({"examples": parts["examples"].drop_columns(["code"])}, "examples table lacks code"),
        ({"directions": broken}, "NaN or infinity"),
        ({"space": NamingSpace(broken, parts["space"].word_mean)}, "NaN or infinity"),
        ({"space": NamingSpace(broken[1:], parts["space"].word_mean)}, "Name it again"),
    ]
    for change, message in wrong:
        with pytest.raises(InvalidInput, match=message):
            save_dictionary(tmp_path / "d", **{**parts, **change})
    assert not (tmp_path / "d").exists()


def test_a_search_finds_what_the_names_were_compared_with(
    tmp_path: Path, parts: dict[str, Any], vocabulary: Vocabulary
) -> None:
    best = {
        n.concept: (n.name if n.status == "named" else n.alternatives[0][0]) for n in parts["names"]
    }
    blocked = replace(parts["names"][2], status="blocked")
    parts["names"] = [*parts["names"][:2], blocked, *parts["names"][3:]]
    save_dictionary(tmp_path / "d", **parts)
    loaded = load_dictionary(tmp_path / "d")
    words = vocabulary.embeddings.double().numpy()
    for name in parts["names"]:
        row = vocabulary.words.index(best[name.concept])
        found = loaded.search(vocabulary.embeddings[row], limit=20)
        query = unit(centred(words)[row])
        scored = [
            (c, cosines(d, query[None])[0]) for c, d in enumerate(parts["directions"].numpy())
        ]
        truth = sorted((pair for pair in scored if pair[0] not in (2, 4)), key=lambda p: -p[1])
        assert [c for c, _ in found] == [c for c, _ in truth]
        assert [s for _, s in found] == pytest.approx([s for _, s in truth], abs=1e-5)
        if name.concept not in (2, 4):
            assert dict(found)[name.concept] == pytest.approx(name.score, abs=1e-5)
    assert len(loaded.search(vocabulary.embeddings[0], limit=2)) == 2


def test_damaged_dictionary(tmp_path: Path, parts: dict[str, Any]) -> None:
    save_dictionary(tmp_path / "d", **parts)
    (tmp_path / "d" / "concepts.parquet").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="concepts.parquet was changed"):
        load_dictionary(tmp_path / "d")
    with pytest.raises(ArtifactError, match="is damaged"):
        load_dictionary(tmp_path / "d", verify=False)
