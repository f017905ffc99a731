"""Embedding survives broken images, dying workers, full disks and kill -9."""

import errno
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dncbm import artifacts
from dncbm.artifacts import load_manifest, verify_files
from dncbm.data.images import decode_image
from dncbm.data.sources import ImageRecord, open_source
from dncbm.encoders import cache
from dncbm.encoders.cache import EmbedConfig, EmbeddingsArtifact, embed, load_embeddings
from dncbm.encoders.clip import Encoder
from dncbm.encoders.decode import retry_dead_workers
from dncbm.errors import ArtifactError, InvalidInput, Unavailable
from tests.unit.data.pictures import encode, noise, write_folder

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

CONFIG = EmbedConfig(batch_size=3, num_workers=0, shard_rows=7)


class Pictures:
    """Twenty noise pictures in memory; 4 and 11 are broken; `before` runs at each read."""

    def __init__(
        self, count: int = 20, broken: tuple[int, ...] = (4, 11), before: Callable[[int], None] = id
    ) -> None:
        self.records = [ImageRecord(f"i{i}", f"p/{i}.png", f"c{i % 2}", None) for i in range(count)]
        self.fingerprint = f"noise-{count}-{broken}"
        self.broken = broken
        self.before = before
        self.reads: Counter[int] = Counter()

    def read(self, index: int) -> bytes:
        self.before(index)
        self.reads[index] += 1
        if index in self.broken:
            return b"not a picture"
        return encode(noise(index, 20 + index, 24))


def _splits(count: int = 20) -> list[str]:
    return ["test" if i % 5 == 0 else "train" for i in range(count)]


def _embed(
    source: Pictures, encoder: Encoder, out: Path, config: EmbedConfig = CONFIG
) -> EmbeddingsArtifact:
    return embed(source, encoder, out, splits=_splits(len(source.records)), config=config)


def _bytes(folder: Path) -> dict[str, bytes]:
    """All files but the manifest, whose time of creation differs."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.name != "manifest.json"}


def _clean(folder: Path) -> bool:
    return [entry.name for entry in folder.iterdir()] == ["out"]


def test_every_good_image_has_its_row(encoder: Encoder, tmp_path: Path) -> None:
    source = Pictures()
    found = _embed(source, encoder, tmp_path / "out")
    good = [i for i in range(20) if i not in source.broken]
    expected = encoder.embed_pil([decode_image(source.read(i)) for i in good]).numpy()
    assert len(found) == 18
    assert found.embed_dim == 12
    assert [len(shard) for shard in found.shards] == [6, 6, 6]
    np.testing.assert_allclose(found.load(), expected, atol=1e-5)
    assert found.labels() == [f"c{i % 2}" for i in good]
    verify_files(found.path, found.manifest)
    assert _clean(tmp_path)


def test_items_say_what_became_of_each_record(encoder: Encoder, tmp_path: Path) -> None:
    items = _embed(Pictures(), encoder, tmp_path / "out").items.to_pylist()
    assert [item["id"] for item in items] == [f"i{i}" for i in range(20)]
    assert [item["row"] for item in items][3:6] == [3, -1, 4]
    assert (items[4]["width"], items[4]["height"]) == (None, None)
    assert "Not an image" in items[4]["error"]
    assert (items[5]["width"], items[5]["height"], items[5]["error"]) == (25, 24, None)
    assert items[5]["split"] == "test"


def test_rows_by_split_and_in_any_order(encoder: Encoder, tmp_path: Path) -> None:
    found = _embed(Pictures(), encoder, tmp_path / "out")
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
    alone = _embed(Pictures(), encoder, tmp_path / "a")
    state = torch.random.get_rng_state()
    many = EmbedConfig(batch_size=3, num_workers=2, shard_rows=7)
    helped = _embed(Pictures(), encoder, tmp_path / "b", many)
    assert _bytes(alone.path) == _bytes(helped.path)
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
            splits=_splits(),
            config=CONFIG,
            progress=listener,
        )
    assert seen[0] == ("embed", 0, 20)
    assert seen[-1] == seen[-2] == ("embed", 20, 20)
    assert [done for _, done, _ in seen[:-1]] == sorted({done for _, done, _ in seen})


def test_a_finished_artifact_is_returned_and_another_recipe_replaces_it(
    encoder: Encoder, tmp_path: Path
) -> None:
    first = _embed(Pictures(), encoder, tmp_path / "out")
    again = Pictures()
    assert _embed(again, encoder, tmp_path / "out").manifest == first.manifest
    assert not again.reads
    other = _embed(Pictures(12), encoder, tmp_path / "out")
    assert other.items.num_rows == 12
    assert _clean(tmp_path)


def _stop_at(index: int) -> Callable[[int], None]:
    def before(read: int) -> None:
        if read == index:
            raise KeyboardInterrupt

    return before


def test_a_resumed_run_reads_no_finished_shard_and_equals_an_uninterrupted_one(
    encoder: Encoder, tmp_path: Path
) -> None:
    whole = _embed(Pictures(), encoder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _embed(Pictures(before=_stop_at(16)), encoder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    rest = Pictures()
    resumed = _embed(rest, encoder, tmp_path / "out")
    assert sorted(rest.reads) == list(range(14, 20))
    assert _bytes(resumed.path) == _bytes(whole.path)
    assert resumed.manifest.fingerprint == whole.manifest.fingerprint


def test_another_recipe_never_mixes_with_an_unfinished_one(
    encoder: Encoder, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _embed(Pictures(before=_stop_at(16)), encoder, tmp_path / "out")
    other = Pictures(broken=())
    found = _embed(other, encoder, tmp_path / "out")
    assert sorted(other.reads) == list(range(20))
    assert len(found) == 20
    assert _clean(tmp_path)


def _embed_until_killed(encoder: Encoder, out: Path, mark: Path) -> None:
    torch.set_num_threads(1)

    def before(index: int) -> None:
        if index == 16:
            mark.touch()
            time.sleep(600)

    _embed(Pictures(before=before), encoder, out)


def test_kill_9_loses_no_finished_shard(encoder: Encoder, tmp_path: Path) -> None:
    whole = _embed(Pictures(), encoder, tmp_path / "whole")
    (tmp_path / "work").mkdir()
    out, mark = tmp_path / "work" / "out", tmp_path / "mark"
    child = multiprocessing.get_context("fork").Process(
        target=_embed_until_killed, args=(encoder, out, mark)
    )
    child.start()
    while not mark.exists():
        assert child.is_alive()
        time.sleep(0.02)
    with pytest.raises(Unavailable, match="Another process is embedding into"):
        _embed(Pictures(), encoder, out)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    rest = Pictures()
    resumed = _embed(rest, encoder, out)
    assert sorted(rest.reads) == list(range(14, 20))
    assert _bytes(resumed.path) == _bytes(whole.path)
    assert _clean(tmp_path / "work")


def test_a_worker_that_dies_is_replaced(encoder: Encoder, tmp_path: Path) -> None:
    main, mark = os.getpid(), tmp_path / "died"

    def before(index: int) -> None:
        if index == 9 and os.getpid() != main and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    config = EmbedConfig(batch_size=3, num_workers=2, shard_rows=7)
    found = _embed(Pictures(before=before), encoder, tmp_path / "out", config)
    assert mark.exists()
    assert _bytes(found.path) == _bytes(_embed(Pictures(), encoder, tmp_path / "whole").path)


def test_workers_that_keep_dying_end_the_run(encoder: Encoder, tmp_path: Path) -> None:
    main = os.getpid()

    def before(index: int) -> None:
        if index == 9 and os.getpid() != main:
            os.kill(os.getpid(), signal.SIGKILL)

    config = EmbedConfig(batch_size=3, num_workers=1, shard_rows=7)
    with pytest.raises(Unavailable, match="workers died 3 times at the same place: out of memory"):
        _embed(Pictures(before=before), encoder, tmp_path / "out", config)
    rest = Pictures()
    _embed(rest, encoder, tmp_path / "out")
    assert sorted(rest.reads) == list(range(7, 20))


@pytest.mark.parametrize("where", ["forward", "shard"])
def test_a_death_told_in_the_middle_of_other_work_is_survived(
    encoder: Encoder, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's signal handler raises wherever the main process happens to be."""
    owner, name = {
        "forward": (Encoder, "encode_images"),
        "shard": (cache, "write_bytes"),
    }[where]
    original, calls = getattr(owner, name), Counter[str]()

    def interrupted(*args: object) -> object:
        calls["n"] += 1
        if calls["n"] == 2:
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")
        return original(*args)

    monkeypatch.setattr(owner, name, interrupted)
    found = _embed(Pictures(), encoder, tmp_path / "out")
    assert calls["n"] > 3
    monkeypatch.setattr(owner, name, original)
    assert _bytes(found.path) == _bytes(_embed(Pictures(), encoder, tmp_path / "whole").path)


def test_other_errors_of_the_work_are_not_repeated() -> None:
    def work() -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        retry_dead_workers(work, lambda: 1)


def test_an_unexpected_error_of_one_image_is_listed(encoder: Encoder, tmp_path: Path) -> None:
    def before(index: int) -> None:
        if index == 2:
            raise RuntimeError("odd codec")

    items = _embed(Pictures(before=before), encoder, tmp_path / "out").items.to_pylist()
    assert items[2]["error"] == "RuntimeError: odd codec"


def test_a_shard_of_broken_images_only(encoder: Encoder, tmp_path: Path) -> None:
    found = _embed(Pictures(broken=tuple(range(7, 14))), encoder, tmp_path / "out")
    assert [len(shard) for shard in found.shards] == [7, 0, 6]
    assert found.load().shape == (13, 12)
    assert load_embeddings(found.path).rows().tolist() == list(range(13))


def test_nothing_but_broken_images_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"None of the 3 images can be read.*'p/0\.png': Not an"):
        _embed(Pictures(3, broken=(0, 1, 2)), encoder, tmp_path / "out")


def test_one_image_is_enough(encoder: Encoder, tmp_path: Path) -> None:
    assert len(_embed(Pictures(1, broken=()), encoder, tmp_path / "out")) == 1


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
        _embed(Pictures(), encoder, tmp_path / "out", config)


def test_float16_is_stored_as_such(encoder: Encoder, tmp_path: Path) -> None:
    found = _embed(Pictures(), encoder, tmp_path / "a", EmbedConfig(num_workers=0, dtype="float16"))
    assert found.shards[0].dtype == np.float16
    exact = _embed(Pictures(), encoder, tmp_path / "b").load()
    np.testing.assert_allclose(found.load(), exact, rtol=2e-3, atol=1e-3)
    assert found.load().dtype == np.float32


def test_a_full_disk_keeps_finished_shards(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        calls = []

        def fsync(handle: int) -> None:
            calls.append(handle)
            if len(calls) > 4:
                raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(artifacts.os, "fsync", fsync)
        with pytest.raises(Unavailable, match="No space left while writing .* Finished parts are"):
            _embed(Pictures(), encoder, tmp_path / "out")
    rest = Pictures()
    _embed(rest, encoder, tmp_path / "out")
    assert sorted(rest.reads) == list(range(14, 20))


def test_an_output_that_cannot_be_written(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Unavailable, match="a file stands where a directory is needed"):
        _embed(Pictures(), encoder, tmp_path / "file" / "out")

    def mkdir(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(Unavailable, match="Cannot write to .*Read-only file system"):
        _embed(Pictures(), encoder, tmp_path / "out")


def test_other_peoples_directories_are_left_alone(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    with pytest.raises(ArtifactError, match="not a dncbm artifact; it will not be overwritten"):
        _embed(Pictures(), encoder, tmp_path / "out")
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
    path = _embed(Pictures(), encoder, tmp_path / "out").path
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


def test_folders_with_bad_files_end_to_end(encoder: Encoder, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pics", {"train/cat": 3, "train/dog": 2, "test/cat": 1})
    (root / "train" / "dog" / "bad.png").write_bytes(encode(noise(1))[:-200])
    source = open_source(str(root))
    splits = [str(record.split) for record in source.records]
    config = EmbedConfig(num_workers=1)
    found = embed(source, encoder, tmp_path / "out", splits=splits, config=config)
    assert (len(found), found.manifest.metrics) == (6, {"images": 6, "broken": 1})
    assert load_manifest(found.path, "embeddings") == found.manifest
    assert SimpleNamespace(**found.items.to_pylist()[-1]).error.startswith("The image is truncated")
