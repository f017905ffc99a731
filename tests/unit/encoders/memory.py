"""A source of pictures that are made when read, and what tests ask of embeddings of it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dncbm.data.sources import ImageRecord
from dncbm.encoders.cache import EmbedConfig, EmbeddingsArtifact, embed
from dncbm.encoders.clip import Encoder
from tests.unit.data.pictures import encode, noise

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


def splits(count: int = 20) -> list[str]:
    return ["test" if i % 5 == 0 else "train" for i in range(count)]


def embed_pictures(
    source: Pictures, encoder: Encoder, out: Path, config: EmbedConfig = CONFIG
) -> EmbeddingsArtifact:
    return embed(source, encoder, out, splits=splits(len(source.records)), config=config)


def file_bytes(folder: Path) -> dict[str, bytes]:
    """All files but the manifest, whose time of creation differs."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.name != "manifest.json"}


def is_clean(folder: Path) -> bool:
    return [entry.name for entry in folder.iterdir()] == ["out"]
