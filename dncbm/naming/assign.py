"""Name(concept) = the word whose text embedding is nearest to the concept's direction.

The caller gives the directions: dictionary rows, or what `naming_directions` makes of them and of
the images. Source: Rao et al. 2024, "Discover-then-Name": argmax over words of the cosine. Added:
centring, agreement of the best phrases, a calibrated threshold, a margin, rejection by labels,
details that tell name-mates apart, alternatives, groups and blocked words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dncbm.artifacts import fingerprint
from dncbm.errors import InvalidInput
from dncbm.naming.backoff import Spoken, back_off
from dncbm.naming.blocklist import default_blocklist
from dncbm.naming.centring import centre_directions, centre_words
from dncbm.naming.config import NamingConfig
from dncbm.naming.exact import Nearest, nearest_words
from dncbm.naming.hubs import hubness, without_hubs
from dncbm.naming.index import WordIndex, index_kind
from dncbm.naming.mates import details
from dncbm.naming.quality import calibrated_threshold, near_duplicates
from dncbm.naming.space import NamingSpace
from dncbm.naming.trust import Labelled, Rejection, names_class, reject
from dncbm.naming.vocabulary import Vocabulary, unit_rows
from dncbm.naming.words import WordRows, mean_unit_word
from dncbm.types import ConceptName, ConceptStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class Naming:
    """Names of a dictionary and how they were decided."""

    names: list[ConceptName]
    space: NamingSpace
    """In which directions and words were compared; texts are looked up in it later."""
    threshold: float | None
    """Least score of a best word for a name, or None without a threshold."""
    index_recall: float
    """Share of concepts whose nearest word the index finds; 1 for the exact index."""
    index: str
    """`exact` or `approximate`."""
    hubness: dict[str, Any] = field(default_factory=dict)
    """Of `dncbm.naming.hubs.hubness`, over the concepts that fire."""
    trust: dict[str, Any] = field(default_factory=dict)
    """Metrics of `dncbm.naming.trust.reject`; empty without labels."""


def assign_names(
    dictionary: Float[Tensor, "c d"],
    vocabulary: Vocabulary,
    *,
    config: NamingConfig | None = None,
    image_mean: Float[Tensor, "d"] | None = None,
    encoder_fingerprint: str | None = None,
) -> list[ConceptName]:
    """One name per dictionary row; `name_dictionary` also tells the threshold."""
    return name_dictionary(
        dictionary,
        vocabulary,
        config=config,
        image_mean=image_mean,
        encoder_fingerprint=encoder_fingerprint,
    ).names


def name_dictionary(  # noqa: PLR0913 - what is known of the concepts comes from several rooms
    dictionary: Float[Tensor, "c d"],
    vocabulary: Vocabulary,
    *,
    config: NamingConfig | None = None,
    image_mean: Float[Tensor, "d"] | None = None,
    active: Bool[Tensor, "c"] | None = None,
    labelled: Labelled | None = None,
    encoder_fingerprint: str | None = None,
    saved: Path | None = None,
) -> Naming:
    """One name per dictionary row, with the threshold that was used.

    A blocked word is passed over: the next best one names the concept. A concept whose best
    word is under the threshold or margin is `unnamed`, or `blocked` where only a blocked word
    passes; its alternatives then begin with the best shown word. Memory does not grow with
    concepts times words: they meet in blocks.

    Args:
        dictionary: decoder rows, or the prototypes of `concept_prototypes` where
            `config.direction` is `images`; any length above 0.
        vocabulary: words embedded by the encoder whose embeddings the dictionary explains.
        config: options; None takes the defaults, `naming_preset("paper")` is the paper's rule.
        image_mean: mean image embedding, used by `centring="words+directions"` only.
        active: concepts that some image activates. Where there is a threshold the others are
            unnamed and do not take part in it: nothing tells what they mean.
        labelled: which class each concept stands for. Names are made without it; it judges them,
            and those that promise less than `config.target_precision` are rejected.
        encoder_fingerprint: of the dictionary's encoder; checked where given.
        saved: folder that keeps an approximate index from one call to the next.

    Raises:
        InvalidInput: another width than the vocabulary, rows that are not finite, or fewer
            than 2 words left by the block list.
        ArtifactMismatch: the vocabulary is of another encoder.
    """
    config = config or NamingConfig()
    if encoder_fingerprint is not None:
        vocabulary.require_encoder(encoder_fingerprint)
    _require_width(dictionary, vocabulary)
    directions = unit_rows(dictionary, "dictionary")
    directions = centre_directions(directions, config.centring, image_mean)
    lexicon = _Lexicon.of(vocabulary, config)
    space = NamingSpace(directions, lexicon.shown.mean)
    living = torch.ones(len(directions), dtype=torch.bool) if active is None else active
    index = _index(lexicon, vocabulary, directions, config, saved)
    threshold = _threshold(directions[living], index.words, config)
    nearest = index.search(directions, max(config.voters, config.alternatives + 1))
    nearest = without_hubs(lexicon.shown, directions[living], nearest, config.hubness)
    spoken = _spoken(lexicon, directions, nearest, config)
    evidence = _Evidence(
        directions=directions,
        nearest=nearest,
        spoken=spoken,
        table=np.column_stack([*_lead(nearest[0]), spoken.agreement]),
        limits=_limits(threshold, living.numpy()),
        hidden=lexicon.best_hidden(directions).numpy(),
    )
    statuses, trust = _statuses(evidence, lexicon, labelled, config)
    return Naming(
        names=_names(evidence, statuses, lexicon, config),
        space=space,
        threshold=threshold,
        index_recall=index.recall(directions[1::2] if len(directions) > 1 else directions),
        index=index.kind,
        hubness=hubness(nearest[1][living], lexicon.labels),
        trust=trust,
    )


@dataclass(frozen=True, slots=True)
class _Lexicon:
    """The words that may be shown, with their labels, and the others."""

    shown: WordRows
    labels: list[str]
    hidden: WordRows

    @classmethod
    def of(cls, vocabulary: Vocabulary, config: NamingConfig) -> "_Lexicon":
        mean = mean_unit_word(vocabulary.embeddings, vocabulary.words)
        mean = torch.zeros_like(mean) if config.centring == "none" else mean
        shown, hidden = _split_words(vocabulary, config.blocked_words)
        return cls(
            WordRows(vocabulary.embeddings, mean, shown if len(hidden) else None),
            [vocabulary.words[row] for row in shown.tolist()],
            WordRows(vocabulary.embeddings, mean, hidden),
        )

    def best_hidden(self, directions: Tensor) -> Tensor:
        """(c,) best score of a blocked word."""
        if not len(self.hidden):
            return torch.full((len(directions),), -torch.inf)
        return nearest_words(self.hidden, directions, 1)[0][:, 0]


class _Evidence(NamedTuple):
    """What speaks for the names of all concepts."""

    directions: Float[Tensor, "c d"]
    nearest: Nearest
    spoken: Spoken
    table: Float[np.ndarray, "c 3"]
    """Best score, its lead over the next, agreement."""
    limits: Float[np.ndarray, "c"]
    """Least score of the best word."""
    hidden: Float[np.ndarray, "c"]
    """Best score of a blocked word."""


def _require_width(dictionary: Tensor, vocabulary: Vocabulary) -> None:
    if len(dictionary) == 0:
        raise InvalidInput("The dictionary has no concepts to name. Train it again.")
    if dictionary.shape[1] != vocabulary.embeddings.shape[1]:
        raise InvalidInput(
            f"The dictionary has width {dictionary.shape[1]}, the vocabulary has width "
            f"{vocabulary.embeddings.shape[1]}. Use a vocabulary of the same encoder."
        )


def _split_words(vocabulary: Vocabulary, extra: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Rows of the words that may be shown, and of those that the block lists hide."""
    rules = default_blocklist().with_words(extra)
    blocked = np.array(rules.blocked(vocabulary.words))
    if (~blocked).sum() < 2:
        raise InvalidInput(
            f"The block list leaves {(~blocked).sum()} of {len(blocked)} words; naming needs at "
            "least 2. Block fewer words or add others."
        )
    return torch.from_numpy(np.flatnonzero(~blocked)), torch.from_numpy(np.flatnonzero(blocked))


def _index(
    lexicon: _Lexicon,
    vocabulary: Vocabulary,
    directions: Tensor,
    config: NamingConfig,
    saved: Path | None,
) -> WordIndex:
    words = lexicon.shown
    kind = index_kind(config.index, len(directions), len(words), words.width)
    key = fingerprint([vocabulary.fingerprint, config.centring, sorted(config.blocked_words)])
    kept = saved if vocabulary.fingerprint else None
    index = WordIndex(words, kind=kind, saved=kept, key=key)
    index.tune(directions[::2])
    return index


def _threshold(directions: Tensor, words: WordRows, config: NamingConfig) -> float | None:
    if config.false_name_rate is None:
        return None
    if len(directions) == 0:
        return 1.0
    return calibrated_threshold(
        directions,
        words,
        false_name_rate=config.false_name_rate,
        count=config.null_directions,
        seed=config.seed,
    )


def _spoken(
    lexicon: _Lexicon, directions: Tensor, nearest: Nearest, config: NamingConfig
) -> Spoken:
    scores, rows = (part[:, : config.voters] for part in nearest)
    return back_off(lexicon.shown, lexicon.labels, directions, (scores, rows), config.back_off)


def _lead(scores: Tensor) -> np.ndarray:
    """(2, c): best score and its lead over the next; hubs may have put them in another order."""
    best = scores.topk(2, dim=1).values.double().numpy()
    return np.stack([best[:, 0], np.maximum(best[:, 0] - best[:, 1], 0.0)])


def _limits(threshold: float | None, living: np.ndarray) -> np.ndarray:
    if threshold is None:
        return np.full(len(living), -np.inf)
    return np.where(living, threshold, np.inf)


def _statuses(
    evidence: _Evidence, lexicon: _Lexicon, labelled: Labelled | None, config: NamingConfig
) -> tuple[list[ConceptStatus], dict[str, Any]]:
    best, margin, _ = evidence.table.T
    named = (best >= evidence.limits) & (margin >= config.min_margin)
    blocked = ~named & (evidence.hidden > best) & (evidence.hidden >= evidence.limits)
    found = _rejection(evidence, named, lexicon, labelled, config)
    named &= found.passed
    statuses: list[ConceptStatus] = [
        "named" if good else "blocked" if bad else "unnamed"
        for good, bad in zip(named.tolist(), blocked.tolist(), strict=True)
    ]
    return statuses, found.metrics


def _rejection(
    evidence: _Evidence,
    named: np.ndarray,
    lexicon: _Lexicon,
    labelled: Labelled | None,
    config: NamingConfig,
) -> Rejection:
    if labelled is None:
        return Rejection(np.ones(len(named), dtype=bool), {})
    rows = torch.from_numpy(evidence.spoken.rows)
    judged = np.flatnonzero(labelled.owners >= 0)
    classes = centre_words(unit_rows(labelled.classes, "class name"), lexicon.shown.mean)
    right = np.zeros(len(named), dtype=bool)
    right[judged] = names_class(lexicon.shown.take(rows[judged]), classes, labelled.owners[judged])
    return reject(
        evidence.table,
        right,
        named & (labelled.owners >= 0),
        target=config.target_precision,
        seed=config.seed,
    )


def _names(
    evidence: _Evidence, statuses: Sequence[ConceptStatus], lexicon: _Lexicon, config: NamingConfig
) -> list[ConceptName]:
    words = [
        lexicon.labels[row] if status == "named" else None
        for row, status in zip(evidence.spoken.rows.tolist(), statuses, strict=True)
    ]
    apart: dict[int, str] = {}
    if config.distinguish:
        scores, rows = (part[:, : config.voters] for part in evidence.nearest)
        apart = details(words, lexicon.shown, lexicon.labels, evidence.directions, (scores, rows))
    groups = _groups(words, evidence.spoken, lexicon.shown)
    names = []
    for concept, status in enumerate(statuses):
        name = _describe(concept, evidence, status, lexicon.labels, config.alternatives)
        if concept in apart:
            name = replace(name, name=f"{name.name} ({apart[concept]})")
        names.append(replace(name, group=groups.get(words[concept] or "", concept)))
    return names


def _describe(
    concept: int,
    evidence: _Evidence,
    status: ConceptStatus,
    labels: Sequence[str],
    alternatives: int,
) -> ConceptName:
    spoken, (scores, rows) = evidence.spoken, evidence.nearest
    first = int(spoken.rows[concept])
    others = zip(rows[concept].tolist(), scores[concept].tolist(), strict=True)
    order = [(row, score) for row, score in others if row >= 0 and row != first]
    ranked = tuple((labels[row], score) for row, score in order[:alternatives])
    named = status == "named"
    best = (labels[first], float(spoken.scores[concept]))
    return ConceptName(
        concept=concept,
        name=best[0] if named else f"concept {concept}",
        score=best[1],
        margin=float(evidence.table[concept, 1]),
        alternatives=ranked if named else (best, *ranked)[:alternatives],
        status=status,
        group=concept,
    )


def _groups(words: Sequence[str | None], spoken: Spoken, lexicon: WordRows) -> dict[str, int]:
    """Word → the lowest concept whose name is that word or one that the encoder takes for it."""
    first: dict[str, int] = {}
    for concept, word in enumerate(words):
        if word is not None:
            first.setdefault(word, concept)
    if not first:
        return {}
    rows = torch.from_numpy(spoken.rows[list(first.values())])
    plain = WordRows(lexicon.embeddings, kept=lexicon.kept).take(rows)
    lowest: dict[int, int] = {}
    meanings = dict(zip(first, _meanings(plain), strict=True))
    for word, concept in first.items():  # in the order of their concepts
        lowest.setdefault(meanings[word], concept)
    return {word: lowest[meanings[word]] for word in first}


def _meanings(embeddings: Float[Tensor, "m d"]) -> list[int]:
    """A number for each word, the same for words that the encoder cannot tell apart."""
    pairs = [(i, j) for i, j, _ in near_duplicates(embeddings)]
    links = sp.coo_matrix(
        (np.ones(len(pairs)), tuple(zip(*pairs, strict=True)) or ([], [])),
        shape=(len(embeddings), len(embeddings)),
    )
    meanings: np.ndarray = sp.csgraph.connected_components(links, directed=False)[1]
    return meanings.tolist()
