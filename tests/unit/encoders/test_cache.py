"""Embeddings of a source: every good image has its row, broken and odd ones are told."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dncbm.artifacts import create_artifact, load_manifest, verify_files
from dncbm.data.images import decode_image
from dncbm.data.sources import open_source
from dncbm.encoders.cache import EmbedConfig, embed, load_embeddings
from dncbm.encoders.clip import Encoder
from dncbm.errors import ArtifactError, InvalidInput
from tests.unit.data.pictures import encode, noise, write_folder
from tests.unit.encoders.memory import (
    CONFIG,
    Pictures,
    embed_pictures,
    file_bytes,
    is_clean,
    splits,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def test_every_good_image_has_its_row(encoder: Encoder, tmp_path: Path) -> None:
    source = Pictures()
    found = embed_pictures(source, encoder, tmp_path / "out")
    good = [i for i in range(20) if i not in source.broken]
    expected = encoder.embed_pil([decode_image(source.read(i)) for i in good]).numpy()
    assert len(found) == 18
    assert found.embed_dim == 12
    assert [len(shard) for shard in found.shards] == [6, 6, 6]
    np.testing.assert_allclose(found.load(), expected, atol=1e-5)
    assert found.labels() == [f"c{i % 2}" for i in good]
    verify_files(found.path, found.manifest)
    assert is_clean(tmp_path)


def test_items_say_what_became_of_each_record(encoder: Encoder, tmp_path: Path) -> None:
    items = embed_pictures(Pictures(), encoder, tmp_path / "out").items.to_pylist()
    assert [item["id"] for item in items] == [f"i{i}" for i in range(20)]
    assert [item["row"] for item in items][3:6] == [3, -1, 4]
    assert (items[4]["width"], items[4]["height"]) == (None, None)
    assert "Not an image" in items[4]["error"]
    assert (items[5]["width"], items[5]["height"], items[5]["error"]) == (25, 24, None)
    assert items[5]["split"] == "test"


def test_rows_by_split_and_in_any_order(encoder: Encoder, tmp_path: Path) -> None:
    found = embed_pictures(Pictures(), encoder, tmp_path / "out")
    test = [i for i in range(0, 20, 5)]
    shift = [i - sum(b < i for b in (4, 11)) for i in test]
    assert found.rows("test").tolist() == shift
    assert (
        sorted([*found.rows("test"), *found.rows("train")])
        == list(range(18))
        == found.rows().tolist()
    )
    whole = found.load()
    order = np.array([17, 0, 6, 5, 5, 12])
    np.testing.assert_array_equal(found.load(order), whole[order])
    assert found.load([], dtype=np.float64).shape == (0, 12)
    with pytest.raises(InvalidInput, match=r"Rows 3\.\.18 asked of .* has rows 0\.\.17"):
        found.load([3, 18])


def test_workers_change_nothing(encoder: Encoder, tmp_path: Path) -> None:
    alone = embed_pictures(Pictures(), encoder, tmp_path / "a")
    state = torch.random.get_rng_state()
    many = EmbedConfig(batch_size=3, num_workers=2, shard_rows=7)
    helped = embed_pictures(Pictures(), encoder, tmp_path / "b", many)
    assert file_bytes(alone.path) == file_bytes(helped.path)
    assert alone.manifest.fingerprint == helped.manifest.fingerprint
    assert torch.equal(state, torch.random.get_rng_state())


def test_progress_counts_records_and_ends_at_the_total(encoder: Encoder, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    listener = lambda stage, done, total: seen.append((stage, done, total))  # noqa: E731
    for _ in range(2):
        embed(
            Pictures(),
            encoder,
            tmp_path / "out",
            splits=splits(),
            config=CONFIG,
            progress=listener,
        )
    assert seen[0] == ("embed", 0, 20)
    assert seen[-1] == seen[-2] == ("embed", 20, 20)
    assert [done for _, done, _ in seen[:-1]] == sorted({done for _, done, _ in seen})


def test_a_finished_artifact_is_returned_and_another_recipe_replaces_it(
    encoder: Encoder, tmp_path: Path
) -> None:
    first = embed_pictures(Pictures(), encoder, tmp_path / "out")
    again = Pictures()
    assert embed_pictures(again, encoder, tmp_path / "out").manifest == first.manifest
    assert not again.reads
    other = embed_pictures(Pictures(12), encoder, tmp_path / "out")
    assert other.items.num_rows == 12
    assert is_clean(tmp_path)


def test_an_unexpected_error_of_one_image_is_listed(encoder: Encoder, tmp_path: Path) -> None:
    def before(index: int) -> None:
        if index == 2:
            raise RuntimeError("odd codec")

    items = embed_pictures(Pictures(before=before), encoder, tmp_path / "out").items.to_pylist()
    assert items[2]["error"] == "RuntimeError: odd codec"


def test_a_shard_of_broken_images_only(encoder: Encoder, tmp_path: Path) -> None:
    found = embed_pictures(Pictures(broken=tuple(range(7, 14))), encoder, tmp_path / "out")
    assert [len(shard) for shard in found.shards] == [7, 0, 6]
    assert found.load().shape == (13, 12)
    assert load_embeddings(found.path).rows().tolist() == list(range(13))


def test_nothing_but_broken_images_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"None of the 3 images can be read.*'p/0\.png': Not an"):
        embed_pictures(Pictures(3, broken=(0, 1, 2)), encoder, tmp_path / "out")


def test_one_image_is_enough(encoder: Encoder, tmp_path: Path) -> None:
    assert len(embed_pictures(Pictures(1, broken=()), encoder, tmp_path / "out")) == 1


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), "float32"), (1e6, "float16")])
def test_numbers_that_cannot_be_kept_are_refused_by_name(
    encoder: Encoder, tmp_path: Path, value: float, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Encoder.encode_images

    def spoiled(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        result = original(self, pixels)
        result[1, 3] = value
        return result

    monkeypatch.setattr(Encoder, "encode_images", spoiled)
    config = EmbedConfig(batch_size=3, num_workers=0, dtype=dtype)
    with pytest.raises(InvalidInput, match=r"NaN or infinite embeddings for 1 images .*'p/1\.png'"):
        embed_pictures(Pictures(), encoder, tmp_path / "out", config)


def test_float16_is_stored_as_such(encoder: Encoder, tmp_path: Path) -> None:
    found = embed_pictures(
        Pictures(), encoder, tmp_path / "a", EmbedConfig(num_workers=0, dtype="float16")
    )
    assert found.shards[0].dtype == np.float16
    exact = embed_pictures(Pictures(), encoder, tmp_path / "b").load()
    np.testing.assert_allclose(found.load(), exact, rtol=2e-3, atol=1e-3)
    assert found.load().dtype == np.float32


def test_other_peoples_directories_are_left_alone(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    with pytest.raises(ArtifactError, match="not a dncbm artifact; it will not be overwritten"):
        embed_pictures(Pictures(), encoder, tmp_path / "file")
    with pytest.raises(ArtifactError, match="not a dncbm artifact; it will not be overwritten"):
        embed_pictures(Pictures(), encoder, tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "x"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"shard_rows": 0}, "shard_rows is 0"),
        ({"dtype": "float64"}, "dtype is 'float64'; use"),
    ],
)
def test_settings_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        EmbedConfig(**options)  # type: ignore[arg-type]


def test_splits_are_one_per_record(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="2 splits for 20 records"):
        embed(Pictures(), encoder, tmp_path / "out", splits=["train"] * 2, config=CONFIG)


def test_damage_is_noticed(encoder: Encoder, tmp_path: Path) -> None:
    path = embed_pictures(Pictures(), encoder, tmp_path / "out").path
    shard = path / "shards" / "000001.npy"
    whole = shard.read_bytes()
    np.save(shard, np.zeros((2, 12), dtype=np.float32))
    with pytest.raises(ArtifactError, match="18 good items but 14 embeddings"):
        load_embeddings(path)
    shard.write_bytes(whole[:40])
    with pytest.raises(ArtifactError, match="is damaged"):
        load_embeddings(path)
    shard.unlink()
    with pytest.raises(ArtifactError, match="incomplete: shards/000001.npy missing"):
        load_embeddings(path)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["inputs"].keys() == {"source", "encoder"}


def _shorten(path: Path) -> None:
    shard = path / "shards" / "000001.npy"
    shard.write_bytes(shard.read_bytes()[:40])


def _of_another_version(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format_version": 0}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_shorten, "is damaged"),
        (_of_another_version, "has format version 0"),
        (lambda path: (path / "items.parquet").unlink(), "incomplete: items.parquet missing"),
        (lambda path: (path / "manifest.json").write_text("{"), "is not valid JSON"),
    ],
)
def test_damaged_embeddings_are_made_again(
    encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm, message: str
) -> None:
    path = embed_pictures(Pictures(), encoder, tmp_path / "out").path
    before = file_bytes(path)
    harm(path)
    with caplog.at_level(logging.WARNING):
        again = embed_pictures(Pictures(), encoder, path)
    assert message in caplog.text
    assert "Embedding the images again." in caplog.text
    assert file_bytes(again.path) == before
    assert is_clean(tmp_path)


@pytest.mark.parametrize("version", [0, 1])
def test_an_artifact_of_another_kind_is_not_replaced(
    encoder: Encoder, tmp_path: Path, version: int
) -> None:
    with create_artifact(tmp_path / "out", "sae", config={}, inputs={}):
        pass
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    text = json.dumps(manifest | {"format_version": version})
    (tmp_path / "out" / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match="is an artifact of kind 'sae'; embeddings will not"):
        embed_pictures(Pictures(), encoder, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").read_text() == text


def test_folders_with_bad_files_end_to_end(encoder: Encoder, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pics", {"train/cat": 3, "train/dog": 2, "test/cat": 1})
    (root / "train" / "dog" / "bad.png").write_bytes(encode(noise(1))[:-200])
    source = open_source(str(root))
    given = [str(record.split) for record in source.records]
    config = EmbedConfig(num_workers=1)
    found = embed(source, encoder, tmp_path / "out", splits=given, config=config)
    metrics = found.manifest.metrics
    assert (len(found), metrics["images"], metrics["broken"]) == (6, 6, 1)
    assert load_manifest(found.path, "embeddings") == found.manifest
    assert SimpleNamespace(**found.items.to_pylist()[-1]).error.startswith("The image is truncated")
