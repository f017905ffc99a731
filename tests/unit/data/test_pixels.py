"""Decoded once: same pixels, resumed after a kill, broken photos told and left out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dncbm.data import pixels
from dncbm.data.folder import open_folder
from dncbm.data.pixels import centred, decoded
from dncbm.errors import InvalidInput


def _photos(root: Path, count: int = 5) -> Path:
    rng = np.random.default_rng(0)
    for i in range(count):
        (root / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (12, 20, 3), dtype=np.uint8))
        image.save(root / f"class{i % 2}" / f"{i}.png")
    return root


def test_pixels_are_the_middle_of_each_photo(tmp_path: Path) -> None:
    """Channels first; a photo with the wanted short side is only cut."""
    source = open_folder(_photos(tmp_path / "photos"))
    found = decoded(source, tmp_path / "work", size=12)
    assert found.images.shape == (5, 3, 12, 12)
    assert isinstance(found.images, np.memmap)
    for row, file in enumerate(source.files):
        want = np.asarray(Image.open(file))[:, 4:16].transpose(2, 0, 1)
        assert np.array_equal(found.images[row], want)
    assert found.usable().tolist() == [0, 1, 2, 3, 4]


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos that were decoded are not read again; a finished file is only opened."""
    monkeypatch.setattr(pixels, "_CHUNK", 2)
    source = open_folder(_photos(tmp_path / "photos"))
    seen: list[int] = []
    read, stop = source.read, 3

    def counted(index: int) -> bytes:
        if index > stop:
            raise KeyboardInterrupt
        seen.append(index)
        return read(index)

    source.read = counted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        decoded(source, tmp_path / "work", size=6)
    assert sorted(seen) == [0, 1, 2, 3]
    stop = 9
    seen.clear()
    told: list[tuple[str, int, int]] = []
    whole = decoded(source, tmp_path / "work", size=6, progress=lambda *a: told.append(a))
    assert seen == [4]
    assert told == [("decode", 4, 5), ("decode", 5, 5)]
    again = decoded(open_folder(tmp_path / "photos"), tmp_path / "other", size=6)
    assert np.array_equal(whole.images, again.images)
    seen.clear()
    decoded(source, tmp_path / "work", size=6)
    assert not seen


def test_broken_photos_are_left_out(tmp_path: Path) -> None:
    """Their rows are named with the reason, also on the next opening; none at all is an error."""
    root = _photos(tmp_path / "photos", 3)
    (root / "class0" / "1broken.png").write_bytes(b"no picture")
    for _ in range(2):
        found = decoded(open_folder(root), tmp_path / "work", size=4)
        assert list(found.errors) == [1]
        assert "Not an image" in found.errors[1]
        assert found.usable().tolist() == [0, 2, 3]
    only = tmp_path / "only"
    only.mkdir()
    (only / "a.png").write_bytes(b"no picture")
    with pytest.raises(InvalidInput, match=r"None of the 1 photos can be read; the first: Not an"):
        decoded(open_folder(only), tmp_path / "work", size=4)


def test_another_size_or_geometry_is_another_file(tmp_path: Path) -> None:
    """What one run decoded is never taken for what another wants."""
    source = open_folder(_photos(tmp_path / "photos", 2))
    marks = {
        decoded(source, tmp_path, size=4).fingerprint,
        decoded(source, tmp_path, size=5).fingerprint,
        decoded(source, tmp_path, size=4, resize=centred(4), geometry="mine").fingerprint,
    }
    assert len(marks) == 3
    assert len(list(tmp_path.glob("pixels-*.npy"))) == 3
