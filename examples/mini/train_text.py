"""First half: teach the text tower what words mean, from two text teachers.

    python examples/mini/train_text.py --data ../shared/data --cache /some/scratch/folder

Linear heads on the *pre-projection* feature meet the sentence teacher and, for 1,600 names,
true CLIP text embeddings; the heads are then thrown away. The second half (train.py) learns
only the linear map from that feature into the shared space, so a word that no photo taught
still lands beside its neighbours.
"""

import argparse
import json
import logging
from pathlib import Path

import model as mini
import numpy as np
import torch
import words
from torch import Tensor, nn
from torch.nn import functional

from dncbm.contrastive.loss import cosine_loss, similarity_distillation_loss
from dncbm.training import seeding
from dncbm.training.loop import LoopConfig, Trainer
from dncbm.training.precision import products

LOGGER = logging.getLogger("mini.train_text")
BATCH = {"word": 448, "phrase": 96, "caption": 96, "clip": 128}
TEMPERATURE = 0.05


class TextTargets:
    """Token rows and teacher vectors of one kind of text."""

    def __init__(self, texts: list[str], vectors: np.ndarray, templates: bool) -> None:
        self.texts = texts
        self.vectors = torch.from_numpy(vectors).float()
        self.templates = templates

    def sample(self, size: int, draw: torch.Generator) -> tuple[list[str], Tensor]:
        """Texts (a third of them inside a template) and the vectors of the *bare* texts.

        A template carries no content of its own, so its target is the word's.
        """
        rows = torch.randint(len(self.texts), (size,), generator=draw)
        texts = [self.texts[i] for i in rows.tolist()]
        if self.templates:
            pick = torch.randint(3 * len(words.TEMPLATES), (size,), generator=draw).tolist()
            texts = [
                words.TEMPLATES[p].format(t) if p < len(words.TEMPLATES) else t
                for p, t in zip(pick, texts, strict=True)
            ]
        return texts, self.vectors[rows]


def load_targets(cache: Path, root: Path) -> dict[str, TextTargets]:
    """Kind → targets; CLIP vectors are centred, for their mean says only "this is a text"."""
    texts = json.loads((cache / "texts.json").read_text())
    targets = {
        kind: TextTargets(texts[kind], np.load(cache / f"texts.{kind}.npy"), kind != "caption")
        for kind in ("word", "phrase", "caption")
    }
    protected = words.protected_names(root)
    keep = [i for i, n in enumerate(texts["clip"]) if n in protected or not words.is_held_out(n)]
    vectors = np.load(cache / "clip_text.npy")
    centred = functional.normalize(torch.from_numpy(vectors - vectors[keep].mean(0)), dim=1).numpy()
    targets["clip"] = TextTargets([texts["clip"][i] for i in keep], centred[keep], True)
    return targets


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − cosine to one's own target, plus in-batch neighbourhoods at ``TEMPERATURE``."""
    return cosine_loss(student, teacher) + 0.25 * similarity_distillation_loss(
        student, teacher, TEMPERATURE
    )


def initial_token_embedding(tokenizer: object, width: int) -> Tensor:
    """Token table ``[vocab, width]``: principal components of the sentence teacher's token vectors.

    Whole-word tokens so begin beside their synonyms, which saves most of the training.
    """
    from teachers import SentenceTeacher

    tokens = sorted(tokenizer.encoder, key=tokenizer.encoder.get)  # type: ignore[attr-defined]
    vectors = SentenceTeacher()([t.replace("</w>", "") or " " for t in tokens])
    centred = torch.from_numpy(vectors.astype(np.float32))
    centred = centred - centred.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    table = centred @ axes[:width].T
    return 0.05 * table / table.std()


def main() -> None:
    """Train, or go on training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    cache: Path = arguments.cache
    seeding.seed_everything(arguments.seed)
    tokenizer = mini.create_tokenizer(cache / "merges.txt.gz")
    model = mini.create_model()
    targets = load_targets(cache, arguments.data)
    width = model.token_embedding.weight.shape[1]
    learner = TextLearner(model, width)
    if not (cache / "text.safetensors").exists():
        with torch.no_grad():
            model.token_embedding.weight.copy_(initial_token_embedding(tokenizer, width))
    config = LoopConfig(steps=arguments.steps, warmup=100, checkpoint_every=250, average_decay=0.99)
    Trainer(learner, config, cache / "text.safetensors").fit(
        lambda step, draw: step_losses(model, learner.heads, tokenizer, targets, draw),
        lambda step: LOGGER.info(
            "unseen words: %s", unseen_words(model, learner.heads, tokenizer, cache)
        ),
    )


class TextLearner(nn.Module):
    """The text half of the model up to its projection, with a linear head for each teacher."""

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.token_embedding = model.token_embedding
        self.positional_embedding = model.positional_embedding
        self.transformer = model.transformer
        self.ln_final = model.ln_final
        self.heads = nn.ModuleDict(
            {"sentence": nn.Linear(width, 384), "clip": nn.Linear(width, 512)}
        )


def step_losses(
    model: nn.Module,
    heads: nn.ModuleDict,
    tokenizer: object,
    targets: dict[str, TextTargets],
    draw: torch.Generator,
) -> dict[str, Tensor]:
    """One loss per kind of text; short texts share a forward pass, captions have their own."""
    word, word_target = targets["word"].sample(BATCH["word"], draw)
    phrase, phrase_target = targets["phrase"].sample(BATCH["phrase"], draw)
    clip, clip_target = targets["clip"].sample(BATCH["clip"], draw)
    caption, caption_target = targets["caption"].sample(BATCH["caption"], draw)
    with products("auto", "cpu"):
        short = text_of(model, tokenizer, [*word, *phrase, *clip])
        long = text_of(model, tokenizer, caption)
        num_clip = len(clip)
        short_out, long_out = heads["sentence"](short[:-num_clip]), heads["sentence"](long)
        clip_out = heads["clip"](short[-num_clip:])
    return {
        "short": distillation_loss(short_out.float(), torch.cat([word_target, phrase_target])),
        "caption": 0.5 * distillation_loss(long_out.float(), caption_target),
        "clip": 0.5 * distillation_loss(clip_out.float(), clip_target),
    }


def text_of(model: nn.Module, tokenizer: object, texts: list[str], buckets: int = 3) -> Tensor:
    """Features in the order of ``texts``; similar lengths run together, so little is padding."""
    tokens = tokenizer(texts)  # type: ignore[operator]
    order = (tokens != 0).sum(1).argsort(stable=True)
    parts = [mini.text_features(model, tokens[rows]) for rows in order.tensor_split(buckets)]
    return torch.cat(parts)[order.argsort()]


def unseen_words(
    model: nn.Module, heads: nn.ModuleDict, tokenizer: object, cache: Path
) -> dict[str, float]:
    """How near held-out words come to their teacher vectors (cosine; top-1 among all held-out)."""
    texts = json.loads((cache / "texts.json").read_text())["word_held_out"]
    teacher = torch.from_numpy(np.load(cache / "texts.word_held_out.npy")).float()
    with torch.inference_mode():
        features = mini.all_text_features(model, tokenizer, texts)  # type: ignore[arg-type]
        student = functional.normalize(heads["sentence"](features), dim=1)
    similarity = student @ teacher.T
    top1 = (similarity.argmax(1) == torch.arange(len(texts))).float().mean()
    return {"cosine": round(similarity.diag().mean().item(), 4), "top1": round(top1.item(), 4)}


if __name__ == "__main__":
    main()
