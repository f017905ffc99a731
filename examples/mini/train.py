"""Second half: teach the image tower, and the linear map from text features into its space.

    python examples/mini/train.py --data ../shared/data --cache /some/scratch/folder

Resumes from ``image.safetensors`` in the cache. ``--steps`` fixes the schedule, so give a
resumed run the same number.
"""

import argparse
import logging
import math
from pathlib import Path

import banks
import batches
import model as mini
import numpy as np
import sources
import torch
import watch
from torch import Tensor, nn
from torch.nn import functional

from dncbm.contrastive.loss import (
    cosine_loss,
    multi_positive_contrastive_loss,
    smoothed_cross_entropy,
    soft_label_loss,
)
from dncbm.training import seeding
from dncbm.training.loop import LoopConfig, Trainer
from dncbm.training.precision import products

LOGGER = logging.getLogger("mini.train")

# Photos of each source in a batch. Small sources come round more often than big ones.
SHARES = {
    "tiny": 22,
    "cifar": 74,
    "clothing": 16,
    "world": 6,
    "flickr": 6,
    "clip": 2,
    "coco": 2,
    "cc12m": 1,
}
# (share of the steps, pixels): small pictures first, the stated input size last.
RESOLUTIONS = ((0.72, 64), (0.78, 80), (1.01, 96))
NUM_WORDS = 1024  # words drawn per step for the word loss
NUM_CAPTIONS = 256  # captions drawn per step as further negatives
NUM_CLIP_NAMES = 192
WORD_TEMPERATURE = 0.06
# Smallest crop, as a share of the photo: the more often a source comes round, the harder.
MIN_AREA = {"tiny": 0.45, "cifar": 0.4, "clothing": 0.35}
MIN_AREA_OTHERS = 0.3
WEIGHTS = {
    "names": 2.5,
    "soft": 0.5,
    "words": 0.3,
    "captions": 0.3,
    "pairs": 0.2,
    "features": 2.0,
    "clip_image": 0.3,
    "clip_text": 0.5,
}


class ImageLearner(nn.Module):
    """Everything that learns in this half; the heads at the end are thrown away."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.visual = model.visual
        self.text_projection = model.text_projection
        embed_dim = model.text_projection.shape[1]
        self.feature_head = nn.Linear(model.visual.trunk.num_features, 768)
        self.clip_head = nn.Linear(embed_dim, 512, bias=False)
        start = math.log(1 / 0.07)
        self.scales = nn.ParameterDict(
            {
                k: nn.Parameter(torch.tensor(start))
                for k in ("names", "soft", "words", "captions", "pairs")
            }
        )

    def scale(self, name: str) -> Tensor:
        """What multiplies a cosine in the loss ``name``; at most 100, as in CLIP."""
        return self.scales[name].exp().clamp(max=100.0)

    def texts(self, features: Tensor) -> Tensor:
        """Unit text embeddings ``[n, 256]`` of pre-projection features."""
        return functional.normalize(features @ self.text_projection, dim=1)


class Curriculum:
    """Draws batches and turns them into losses."""

    def __init__(
        self, learner: ImageLearner, cache: Path, root: Path, model: nn.Module, steps: int
    ) -> None:
        self.learner, self.steps = learner, steps
        present = [name for name in SHARES if (cache / f"{name}.logits.npy").exists()]
        self.sources = {name: batches.load_source(cache, name) for name in present}
        self.banks, self.names = banks.build(model, cache, root)
        self.label_rows = {
            name: {label: row for row, label in enumerate(self.names[name].labels)}
            for name in ("cifar", "tiny", "clothing")
        }
        self.caption_rows = self.banks["caption"].index()
        all_features = torch.cat([s.features[s.train].float() for s in self.sources.values()])
        self.feature_mean, self.feature_std = all_features.mean(0), all_features.std(0) + 1e-3
        self.clip_images = clip_images(root)
        self.word_features = torch.cat([self.banks["word"].features, self.banks["phrase"].features])
        self.word_teacher = torch.cat([self.banks["word"].teacher, self.banks["phrase"].teacher])
        self._index_meanings(root)
        flickr = self.sources["flickr"]
        unseen = [caption for row in flickr.watch.tolist() for caption in flickr.captions[row]]
        tokenizer = mini.create_tokenizer(cache / "merges.txt.gz")
        self.watch_captions = mini.all_text_features(model, tokenizer, unseen)

    def _index_meanings(self, root: Path) -> None:
        """Sentence-teacher vectors of the class names, for the word loss."""
        words = self.banks["word"].index()
        teacher = self.banks["word"].teacher
        self.imagenet_meaning = teacher[[words[n] for n in sources.imagenet_names(root)]]
        self.label_meaning = {}
        for name, labels in banks.words.class_names(root).items():
            rows = [
                functional.normalize(teacher[[words[s] for s in syn]].mean(0), dim=0)
                for syn in labels.values()
            ]
            self.label_meaning[name] = torch.stack(rows)

    def side(self, step: int) -> int:
        """Input size in pixels at a step."""
        return next(side for share, side in RESOLUTIONS if step < share * self.steps)

    def losses(self, step: int, draw: torch.Generator) -> dict[str, Tensor]:
        """Weighted losses of one fresh batch."""
        rows = {n: batches.draw_rows(s, SHARES[n], draw) for n, s in self.sources.items()}
        chosen = [(self.sources[n], r, MIN_AREA.get(n, MIN_AREA_OTHERS)) for n, r in rows.items()]
        pixels = batches.augmented(chosen, self.side(step), draw)
        with products("auto", "cpu"):
            features = self.learner.visual.trunk(pixels)
            embeddings = self.learner.visual.head(features)
            guessed = self.learner.feature_head(features)
        parts = dict(
            zip(
                rows,
                functional.normalize(embeddings.float(), dim=1).split(
                    [len(r) for r in rows.values()]
                ),
                strict=True,
            )
        )
        out = self._label_losses(parts, rows, draw)
        out |= self._teacher_losses(parts, rows, guessed.float(), draw)
        out |= self._caption_losses(parts, rows, draw)
        return {name: WEIGHTS[name] * loss for name, loss in out.items()}

    def _label_losses(
        self, parts: dict[str, Tensor], rows: dict[str, Tensor], draw: torch.Generator
    ) -> dict[str, Tensor]:
        """Cross-entropy among each labelled source's own class names."""
        total, count = torch.zeros(()), 0
        for name in self.label_rows:
            texts = self.learner.texts(self.names[name].sample(draw))
            labels = self._labels(name, rows[name])
            loss = smoothed_cross_entropy(
                self.learner.scale("names") * parts[name] @ texts.T, labels, 0.05
            )
            total, count = total + loss * len(labels), count + len(labels)
        return {"names": total / count}

    def _labels(self, name: str, rows: Tensor) -> Tensor:
        table = self.label_rows[name]
        return torch.tensor([table[self.sources[name].labels[i]] for i in rows.tolist()])

    def _teacher_losses(
        self,
        parts: dict[str, Tensor],
        rows: dict[str, Tensor],
        guessed: Tensor,
        draw: torch.Generator,
    ) -> dict[str, Tensor]:
        """MobileNet's features, soft labels and their meaning among words; CLIP's two towers."""
        learner = self.learner
        logits = torch.cat([self.sources[n].logits[r].float() for n, r in rows.items()])
        wanted = torch.cat([self.sources[n].features[r].float() for n, r in rows.items()])
        images = torch.cat(list(parts.values()))
        names = learner.texts(self.names["imagenet"].sample(draw))
        photo = _rows_but(rows, ("world",))
        # MobileNet sees CIFAR's 32 pixels too blurred for its soft labels to be worth learning.
        clear = _rows_but(rows, ("world", "cifar"))
        out = {
            "features": cosine_loss(
                guessed[photo], ((wanted - self.feature_mean) / self.feature_std)[photo]
            ),
            "soft": soft_label_loss(
                (learner.scale("soft") * images @ names.T)[clear], logits[clear], 1.5
            ),
            "words": self._word_loss(images, rows, logits, draw),
        }
        clip = learner.clip_head(parts["clip"])
        out["clip_image"] = cosine_loss(
            clip,
            torch.stack(
                [self.clip_images[self.sources["clip"].keys[i]] for i in rows["clip"].tolist()]
            ),
        )
        bank = self.banks["clip"]
        pick = torch.randint(len(bank.texts), (NUM_CLIP_NAMES,), generator=draw)
        out["clip_text"] = cosine_loss(
            learner.clip_head(learner.texts(bank.features[pick])), bank.teacher[pick]
        )
        return out

    def _word_loss(
        self, images: Tensor, rows: dict[str, Tensor], logits: Tensor, draw: torch.Generator
    ) -> Tensor:
        """KL over random words: the wanted ones mean what the photo's label or caption means."""
        soft = functional.normalize((logits / 1.5).softmax(1) @ self.imagenet_meaning, dim=1)
        meanings, first = [], 0
        for name, chosen in rows.items():
            part = soft[first : first + len(chosen)]
            first += len(chosen)
            if name in self.label_meaning:
                part = 0.75 * self.label_meaning[name][self._labels(name, chosen)] + 0.25 * part
            elif name in ("flickr", "coco", "cc12m", "world"):
                part = self._caption_meaning(name, chosen, part)
            meanings.append(functional.normalize(part, dim=1))
        pick = torch.randint(len(self.word_features), (NUM_WORDS,), generator=draw)
        wanted = torch.cat(meanings) @ self.word_teacher[pick].T
        given = (
            self.learner.scale("words") * images @ self.learner.texts(self.word_features[pick]).T
        )
        return soft_label_loss(given, wanted, WORD_TEMPERATURE)

    def _caption_meaning(self, name: str, rows: Tensor, fallback: Tensor) -> Tensor:
        teacher, out = self.banks["caption"].teacher, fallback.clone()
        for place, row in enumerate(rows.tolist()):
            known = [
                self.caption_rows[c]
                for c in self.sources[name].captions[row]
                if c in self.caption_rows
            ]
            if known:
                out[place] = functional.normalize(teacher[known].mean(0), dim=0)
        return out

    def _caption_losses(
        self, parts: dict[str, Tensor], rows: dict[str, Tensor], draw: torch.Generator
    ) -> dict[str, Tensor]:
        """Own caption against many others; all pairs of the batch, equal labels as positives."""
        captioned, chosen = [], []
        for name in ("flickr", "coco", "cc12m", "world"):
            for place, row in enumerate(rows.get(name, torch.zeros(0, dtype=torch.long)).tolist()):
                known = [c for c in self.sources[name].captions[row] if c in self.caption_rows]
                if known:
                    pick = int(torch.randint(len(known), (1,), generator=draw))
                    captioned.append(parts[name][place])
                    chosen.append(self.caption_rows[known[pick]])
        bank, learner = self.banks["caption"], self.learner
        images = torch.stack(captioned)
        own = learner.texts(bank.features[chosen])
        others = learner.texts(
            bank.features[torch.randint(len(bank.texts), (NUM_CAPTIONS,), generator=draw)]
        )
        logits = learner.scale("captions") * images @ torch.cat([own, others]).T
        out = {"captions": smoothed_cross_entropy(logits, torch.arange(len(images)))}
        texts, groups, all_images = [own], [torch.arange(len(images))], [images]
        for name in self.label_rows:
            labels = self._labels(name, rows[name])
            texts.append(learner.texts(self.names[name].sample(draw))[labels])
            groups.append(labels + 1000 * len(groups))
            all_images.append(parts[name])
        out["pairs"] = multi_positive_contrastive_loss(
            torch.cat(all_images), torch.cat(texts), torch.cat(groups), learner.scale("pairs")
        )
        return out


def _rows_but(rows: dict[str, Tensor], left_out: tuple[str, ...]) -> Tensor:
    """Which rows of the batch come from other sources than ``left_out``, bool ``[n]``."""
    return torch.cat([torch.full((len(r),), n not in left_out) for n, r in rows.items()])


def clip_images(root: Path) -> dict[str, Tensor]:
    """Photo name → true CLIP image embedding, centred and of unit length; no CIFAR test photo."""
    table = np.load(root / "clip_vitb32" / "image_embeddings.npz")
    keep = table["source"] != "cifar10_test_first500"
    vectors = functional.normalize(torch.from_numpy(table["vectors"][keep]), dim=1)
    vectors = functional.normalize(vectors - vectors.mean(0), dim=1)
    return dict(zip([str(n) for n in table["image"][keep]], vectors, strict=True))


def main() -> None:
    """Train, or go on training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    torch.set_num_threads(arguments.threads)
    seeding.seed_everything(arguments.seed)
    model = mini.create_model()
    banks.load_text_tower(model, arguments.cache)
    learner = ImageLearner(model)
    learner.visual.to(memory_format=torch.channels_last)
    curriculum = Curriculum(learner, arguments.cache, arguments.data, model, arguments.steps)
    config = LoopConfig(
        average_decay=0.998,
        steps=arguments.steps,
        warmup=300,
        checkpoint_every=400,
        seed=arguments.seed,
    )
    trainer = Trainer(learner, config, arguments.cache / "image.safetensors")

    def report(step: int) -> None:
        with trainer.averaged():
            LOGGER.info("step %d: %s", step, watch.accuracies(learner, curriculum))

    learner.train()
    trainer.fit(curriculum.losses, report)


if __name__ == "__main__":
    main()
