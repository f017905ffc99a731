"""Text features of every name, word and caption, computed once: the text tower stays fixed."""

import json
from dataclasses import dataclass
from pathlib import Path

import model as mini
import numpy as np
import sources
import torch
import words
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from dncbm.errors import InvalidInput
from dncbm.training import checkpoints

NUM_VARIANTS = 16


@dataclass(frozen=True, slots=True)
class Bank:
    """Pre-projection features ``[n, width]`` of texts, with teacher vectors ``[n, T]``."""

    texts: list[str]
    features: Tensor
    teacher: Tensor

    def index(self) -> dict[str, int]:
        """Text → row."""
        return {text: row for row, text in enumerate(self.texts)}


@dataclass(frozen=True, slots=True)
class Names:
    """Features ``[K, NUM_VARIANTS, width]`` of K classes in several wordings each."""

    labels: list[str]
    features: Tensor

    def sample(self, draw: torch.Generator) -> Tensor:
        """One wording for each class, ``[K, width]``."""
        pick = torch.randint(self.features.shape[1], (len(self.features),), generator=draw)
        return self.features[torch.arange(len(self.features)), pick]


def wordings(synonyms: list[str]) -> list[str]:
    """``NUM_VARIANTS`` texts for one class: the first name in every template, then the synonyms."""
    out = [template.format(synonyms[0]) for template in words.TEMPLATES]
    others = synonyms[1:] or synonyms
    for index in range(NUM_VARIANTS - len(out)):
        template = words.TEMPLATES[(3 * index) % len(words.TEMPLATES)]
        out.append(template.format(others[index % len(others)]))
    return out


def load_text_tower(model: nn.Module, cache: Path) -> None:
    """Put the averaged weights of train_text.py into ``model``.

    Where the cache holds ``start.safetensors`` (the bundled weights, to go on from), they are taken
    instead, image tower included.
    """
    if (cache / "start.safetensors").exists():
        model.load_state_dict(load_file(cache / "start.safetensors"))
        return
    saved = checkpoints.load_checkpoint(cache / "text.safetensors")
    if saved is None:
        raise InvalidInput(f"{cache} holds no text.safetensors. Run train_text.py first.")
    own = model.state_dict()
    for name, tensor in saved[0].items():
        key = name.removeprefix("average.")
        if name.startswith("average.") and key in own:
            own[key].copy_(tensor)


def build(model: nn.Module, cache: Path, root: Path) -> tuple[dict[str, Bank], dict[str, Names]]:
    """All banks; features are kept in ``banks.safetensors`` for the next start."""
    texts = json.loads((cache / "texts.json").read_text())
    tokenizer = mini.create_tokenizer(cache / "merges.txt.gz")
    named = {source: labels for source, labels in words.class_names(root).items()}
    imagenet = zip(sources.imagenet_names(root), sources.imagenet_synonyms(root), strict=True)
    named["imagenet"] = {
        f"{i:04d}": [n, *(s for s in more if s != n)] for i, (n, more) in enumerate(imagenet)
    }
    wanted = {f"names.{k}": [w for s in v.values() for w in wordings(s)] for k, v in named.items()}
    wanted |= {kind: texts[kind] for kind in ("word", "phrase", "caption", "scene")}
    clip_rows = trained_clip_rows(texts["clip"], root)
    wanted["clip"] = [texts["clip"][i] for i in clip_rows]
    saved = checkpoints.load_checkpoint(cache / "banks.safetensors")
    if saved is None:
        tensors = {k: mini.all_text_features(model, tokenizer, v) for k, v in wanted.items()}
        checkpoints.save_checkpoint(cache / "banks.safetensors", tensors, {})
    else:
        tensors = saved[0]
    teacher = {
        k: torch.from_numpy(np.load(cache / f"texts.{k}.npy")).float()
        for k in ("word", "phrase", "caption", "scene")
    }
    clip = torch.from_numpy(np.load(cache / "clip_text.npy"))[clip_rows]
    teacher["clip"] = functional.normalize(clip - clip.mean(0), dim=1)
    banks = {k: Bank(wanted[k], tensors[k], teacher[k]) for k in teacher}
    banks["caption"] = _joined(banks["caption"], banks.pop("scene"))
    shaped = {k: tensors[f"names.{k}"].view(len(v), NUM_VARIANTS, -1) for k, v in named.items()}
    return banks, {k: Names(list(v), shaped[k]) for k, v in named.items()}


def _joined(first: Bank, second: Bank) -> Bank:
    return Bank(
        [*first.texts, *second.texts],
        torch.cat([first.features, second.features]),
        torch.cat([first.teacher, second.teacher]),
    )


def trained_clip_rows(names: list[str], root: Path) -> list[int]:
    """Rows of the CLIP names that may teach: all but the held-out twentieth."""
    protected = words.protected_names(root)
    return [i for i, n in enumerate(names) if n in protected or not words.is_held_out(n)]
