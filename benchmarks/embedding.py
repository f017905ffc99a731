"""Embedding a folder of photos beside the bare forward pass on the same, already decoded photos.

    python benchmarks/embedding.py                       # 512 rendered scenes
    python benchmarks/embedding.py --data photos.zip --encoder ViT-B-32:openai

Prints images per second of both and their ratio: 1.0 means that reading, decoding and writing
cost nothing beside the encoder.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from dncbm.data.concept_world import write_concept_world
from dncbm.data.images import decode_image
from dncbm.data.sources import ImageSource, open_source
from dncbm.encoders.cache import EmbedConfig, embed
from dncbm.encoders.clip import Encoder, load_encoder


def bare_forward(encoder: Encoder, pixels: torch.Tensor, batch_size: int) -> float:
    """Seconds of the forward passes alone."""
    start = time.perf_counter()
    for batch in pixels.split(batch_size):
        encoder.encode_images(batch)
    return time.perf_counter() - start


def whole_stage(source: ImageSource, encoder: Encoder, config: EmbedConfig) -> float:
    """Seconds of `embed` into a fresh artifact."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        embed(
            source,
            encoder,
            Path(folder) / "embeddings",
            splits=["train"] * len(source.records),
            config=config,
        )
        return time.perf_counter() - start


def main() -> None:
    """Alternate both `--rounds` times and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data")
    parser.add_argument("--encoder", default="mini")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        location = options.data or str(Path(folder) / "world")
        if options.data is None:
            write_concept_world(Path(location), num_images=512, size=128, seed=0)
        source = open_source(location)
        encoder = load_encoder(options.encoder)
        config = EmbedConfig(batch_size=options.batch_size, num_workers=options.workers)
        count = len(source.records)
        pixels = torch.stack(
            [encoder.preprocess(decode_image(source.read(index))) for index in range(count)]
        )
        pairs = [
            (
                bare_forward(encoder, pixels, options.batch_size),
                whole_stage(source, encoder, config),
            )
            for _ in range(options.rounds)
        ]
    bare, whole = (statistics.median(values) for values in zip(*pairs, strict=True))
    print(f"bare forward  {count / bare:8.1f} images/s")
    print(f"embed stage   {count / whole:8.1f} images/s")
    print(f"ratio         {bare / whole:8.2f}")


if __name__ == "__main__":
    main()
