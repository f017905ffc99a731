"""Build the text side of the cache: the tokenizer's merges and the text teachers' embeddings.

    python examples/mini/prepare_text.py --data ../shared/data --cache /some/scratch/folder

Writes ``merges.txt.gz``, ``texts.json`` (kind → list of texts) and ``texts.{kind}.npy``.
"""

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import sources
import torch
import words
from bpe import train_merges, write_merges
from teachers import SentenceTeacher

LOGGER = logging.getLogger("mini.prepare_text")
NUM_MERGES = 12_000


def collect(root: Path, cache: Path, seed: int) -> dict[str, list[str]]:
    """Kind → texts; words and CLIP names that are held out have kinds of their own."""
    protected = words.protected_names(root)
    english = sorted(set(words.english_words()) | protected)
    clip_names, _ = words.clip_names(root)
    held_out = {w for w in [*english, *clip_names] if words.is_held_out(w) and w not in protected}
    nouns = sorted(
        n for n in {*protected, *clip_names} if n not in held_out and len(n.split()) <= 2
    )
    return {
        "word": [w for w in english if w not in held_out],
        "word_held_out": sorted(held_out.intersection(english)),
        "clip": clip_names,
        "phrase": words.phrases(nouns, seed),
        "caption": words.training_captions(root),
        "scene": scene_captions(cache),
    }


def scene_captions(cache: Path) -> list[str]:
    """The captions of the rendered scenes that prepare.py left in the cache."""
    rows = json.loads((cache / "world.json").read_text())
    return sorted({caption for row in rows for caption in row["captions"]})


def main() -> None:
    """Build every part that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    cache: Path = arguments.cache
    texts = collect(arguments.data, cache, arguments.seed)
    LOGGER.info("texts: %s", {kind: len(entries) for kind, entries in texts.items()})
    if not (cache / "merges.txt.gz").exists():
        names = [*texts["clip"], *sources.imagenet_names(arguments.data), *words.TEMPLATES]
        counts = words.merge_counts(texts["caption"], names)
        write_merges(train_merges(counts, NUM_MERGES), cache / "merges.txt.gz")
        LOGGER.info("merges from %d words", len(counts))
    (cache / "texts.json").write_text(json.dumps(texts))
    _, vectors = words.clip_names(arguments.data)
    np.save(cache / "clip_text.npy", vectors)
    teacher = SentenceTeacher()
    for kind, entries in texts.items():
        if (cache / f"texts.{kind}.npy").exists():
            continue
        np.save(cache / f"texts.{kind}.npy", teacher(entries))
        LOGGER.info("%s: %d sentence embeddings", kind, len(entries))
    LOGGER.info("done with %d threads", torch.get_num_threads())


if __name__ == "__main__":
    main()
