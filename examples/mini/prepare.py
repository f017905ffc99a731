"""Build the training cache: decoded pixels, teacher outputs, tokenizer and text targets.

    python examples/mini/prepare.py --data ../shared/data --cache /some/scratch/folder

Nothing in the cache may be committed: it holds other people's pictures and teachers' outputs.
Each part is skipped where its files are already there, so that a killed run goes on.
"""

import argparse
import io
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sources import Photo, all_photos, as_bytes_io
from teachers import MobileNetV1
from torch.nn import functional

from dncbm.data.concept_world import render_scene
from dncbm.training.precision import products

LOGGER = logging.getLogger("mini.prepare")

SIDE = {
    "cifar": 32,
    "tiny": 64,
}  # the others are squashed to PHOTO_SIDE; their aspect is kept apart
PHOTO_SIDE = 112
TEACHER_SIDE = {32: 128, 64: 128, PHOTO_SIDE: 224}
# Small batches stay in the processor's cache: 5 times as fast here as batches of 128.
TEACHER_BATCH = 16
CONCEPT_SCENES = 4000


def prepare_photos(photos: Sequence[Photo], cache: Path, name: str) -> None:
    """Write ``{name}.pixels.npy`` (uint8 ``[n, side, side, 3]``) and ``{name}.json``."""
    side = SIDE.get(name, PHOTO_SIDE)
    pixels = np.zeros((len(photos), side, side, 3), np.uint8)
    rows = []
    for index, photo in enumerate(photos):
        image = Image.open(as_bytes_io(photo)).convert("RGB")
        pixels[index] = np.asarray(_squashed(image, side))
        rows.append(
            {
                "split": photo.split,
                "label": photo.label,
                "captions": photo.captions,
                "key": photo.key,
                "aspect": image.width / image.height,
            }
        )
    np.save(cache / f"{name}.pixels.npy", pixels)
    (cache / f"{name}.json").write_text(json.dumps(rows))


def _squashed(image: Image.Image, side: int) -> Image.Image:
    return (
        image
        if image.size == (side, side)
        else image.resize((side, side), Image.Resampling.BICUBIC)
    )


@torch.inference_mode()
def prepare_teacher(model: MobileNetV1, pixels: np.ndarray, cache: Path, name: str) -> None:
    """Write MobileNet features ``[n, 768]`` and logits ``[n, 1000]`` (float16) of every picture."""
    side = TEACHER_SIDE[pixels.shape[1]]
    features = np.zeros((len(pixels), 768), np.float16)
    logits = np.zeros((len(pixels), 1000), np.float16)
    start = time.monotonic()
    for first in range(0, len(pixels), TEACHER_BATCH):
        rows = slice(first, first + TEACHER_BATCH)
        x = torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2).float()
        x = functional.interpolate(x, size=side, mode="bicubic").clamp(0, 255)
        with products("auto", "cpu"):
            feature, logit = model(x.to(memory_format=torch.channels_last))
        features[rows], logits[rows] = feature.half().numpy(), logit.half().numpy()
        if first % (TEACHER_BATCH * 200) == 0:
            rate = (first + TEACHER_BATCH) / (time.monotonic() - start)
            LOGGER.info("%s: teacher at %d of %d, %.0f per second", name, first, len(pixels), rate)
    np.save(cache / f"{name}.features.npy", features)
    np.save(cache / f"{name}.logits.npy", logits)


def concept_world(count: int, seed: int) -> list[Photo]:
    """Rendered scenes with known concepts, as PNG bytes; seeds that no other use takes."""
    photos = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        scene = render_scene(rng, PHOTO_SIDE)
        some = rng.choice(scene.concepts, size=min(3, len(scene.concepts)), replace=False)
        captions = (scene.caption, f"a {scene.label}", ", ".join(some))
        buffer = io.BytesIO()
        scene.image.save(buffer, "PNG")
        photos.append(
            Photo("world", "train", scene.label, captions, buffer.getvalue(), f"scene {index}")
        )
    return photos


def main() -> None:
    """Build every part that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the zips of README.md"
    )
    parser.add_argument("--cache", type=Path, required=True, help="scratch folder, about 2 GB")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--world-seed", type=int, default=77_001)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    torch.set_num_threads(arguments.threads)
    arguments.cache.mkdir(parents=True, exist_ok=True)

    model = MobileNetV1(arguments.data / "mobilenet_v1_075_224").eval()
    groups: dict[str, list[Photo]] = {}
    for photo in all_photos(arguments.data):
        groups.setdefault(photo.source, []).append(photo)
    groups["world"] = concept_world(CONCEPT_SCENES, arguments.world_seed)
    # Small groups first: the run can then be inspected early.
    for name in sorted(groups, key=lambda n: len(groups[n])):
        if not (arguments.cache / f"{name}.json").exists():
            prepare_photos(groups[name], arguments.cache, name)
            LOGGER.info("%s: %d pictures", name, len(groups[name]))
        if not (arguments.cache / f"{name}.logits.npy").exists():
            pixels = np.load(arguments.cache / f"{name}.pixels.npy")
            prepare_teacher(model, pixels, arguments.cache, name)


if __name__ == "__main__":
    main()
