"""Class names, templates and the word lists that give the text tower its meanings."""

import hashlib
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import sources
import wordfreq

CIFAR_NAMES = {
    "airplane": ["airplane", "plane", "aeroplane", "jet"],
    "automobile": ["automobile", "car", "sedan"],
    "bird": ["bird"],
    "cat": ["cat", "kitten"],
    "deer": ["deer"],
    "dog": ["dog", "puppy"],
    "frog": ["frog", "toad"],
    "horse": ["horse", "pony"],
    "ship": ["ship", "boat"],
    "truck": ["truck", "lorry"],
}
CLOTHING_NAMES = {
    "dress": ["dress", "gown"],
    "hat": ["hat", "cap"],
    "longsleeve": ["longsleeve", "long sleeve shirt", "long sleeve", "sweatshirt"],
    "outwear": ["outwear", "jacket", "coat", "outerwear"],
    "pants": ["pants", "trousers", "jeans"],
    "shirt": ["shirt", "button-up shirt", "dress shirt"],
    "shoes": ["shoes", "shoe", "sneakers", "footwear"],
    "shorts": ["shorts", "short pants"],
    "skirt": ["skirt"],
    "t-shirt": ["t-shirt", "tee", "tshirt", "tee shirt"],
}
TEMPLATES = (
    "{}",
    "a photo of a {}",
    "a photo of a {}.",
    "a photo of the {}",
    "a picture of a {}",
    "an image of a {}",
    "a close-up photo of a {}",
    "a {}",
    "the {}",
    "{} in a photo",
)
NUM_WORDS = 30_000
NUM_PHRASES = 12_000
HELD_OUT_SHARE = 20  # one word in 20 is kept from every loss
_ADJECTIVES = (
    "red", "blue", "green", "yellow", "orange", "purple", "pink", "brown", "black", "white",
    "grey", "dark", "light", "bright", "big", "small", "tall", "long", "short", "round",
    "square", "flat", "thin", "thick", "wide", "narrow", "old", "new", "young", "wooden",
    "metal", "glass", "plastic", "leather", "cotton", "woollen", "striped", "spotted",
    "checkered", "plain", "shiny", "matte", "rough", "smooth", "soft", "hard", "wet", "dry",
    "dirty", "clean", "empty", "full", "open", "closed", "broken", "hairy", "furry", "fluffy",
    "feathered", "curly", "snowy", "sandy", "rocky", "grassy", "muddy", "cloudy", "sunny",
    "blurry", "colorful", "transparent", "curved", "folded", "hanging", "standing", "sitting",
    "running", "flying", "swimming", "floating", "parked", "sleeveless", "buttoned", "hooded",
    "knitted", "denim", "silk", "baggy", "tight",
)  # fmt: skip


def caption_words(text: str) -> list[str]:
    """Lower-case words of letters only."""
    return re.findall(r"[a-z]+", text.lower())


def english_words() -> list[str]:
    """Frequent English words of letters only, most frequent first (wordfreq)."""
    words = wordfreq.top_n_list("en", NUM_WORDS)
    return [w for w in words if re.fullmatch(r"[a-z]{2,}", w)]


def clip_names(root: Path) -> tuple[list[str], np.ndarray]:
    """Unique names with true CLIP text embeddings ``[n, 512]``, unit length, repeats averaged."""
    table = np.load(root / "clip_vitb32" / "text_vocab.npz")
    grouped: dict[str, list[np.ndarray]] = {}
    for name, vector in zip(table["names"], table["vectors"].astype(np.float32), strict=True):
        clean = (
            re.sub(r"\s+", " ", str(name).replace("_", " ").replace("/", " or ")).lower().strip()
        )
        grouped.setdefault(clean, []).append(vector / np.linalg.norm(vector))
    vectors = np.stack([np.mean(rows, 0) for rows in grouped.values()])
    return list(grouped), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def class_names(root: Path) -> dict[str, dict[str, list[str]]]:
    """Source → label → its names, first the plainest."""
    return {"cifar": CIFAR_NAMES, "clothing": CLOTHING_NAMES, "tiny": sources.tiny_words(root)}


def is_held_out(word: str) -> bool:
    """Whether a word belongs to the fixed 1-in-20 that no loss ever sees as an entry."""
    return int(hashlib.sha256(f"held out {word}".encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0


def protected_names(root: Path) -> set[str]:
    """Names that teach as classes and so cannot be held out."""
    names = set(sources.imagenet_names(root)) | set(sources.coco_names(root))
    names |= {s for group in sources.imagenet_synonyms(root) for s in group}
    for labels in class_names(root).values():
        names |= {s for synonyms in labels.values() for s in synonyms}
    return names


def phrases(nouns: list[str], seed: int) -> list[str]:
    """Phrases such as "striped shirt": adjectives before nouns, drawn once."""
    draw = random.Random(seed)
    pairs = {f"{draw.choice(_ADJECTIVES)} {draw.choice(nouns)}" for _ in range(NUM_PHRASES)}
    return sorted(pairs)


def training_captions(root: Path) -> list[str]:
    """All captions but the held-out photos' (31 thousand of them without a photo here)."""
    held_out = set(sources.held_out_flickr(root))
    table = sources.flickr_captions(root)
    captions = [c for name in sorted(table) if name not in held_out for c in table[name]]
    for photo in [*sources.coco(root), *sources.cc12m(root)]:
        captions.extend(photo.captions)
    return sorted({c for c in captions if c})


def merge_counts(captions: list[str], names: list[str]) -> dict[str, float]:
    """Word → weight for the tokenizer; square roots, so that rare words get whole tokens too."""
    counts: dict[str, float] = {}
    for word in english_words():
        counts[word] = (wordfreq.word_frequency(word, "en") * 1e8) ** 0.5
    seen = Counter(w for text in captions for w in caption_words(text))
    named = Counter(w for text in names for w in caption_words(text))
    for word, count in seen.items():
        counts[word] = counts.get(word, 0.0) + 4.0 * count**0.5
    for word, count in named.items():
        counts[word] = counts.get(word, 0.0) + 20.0 * count**0.5
    return counts
