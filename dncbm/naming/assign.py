"""Name(concept) = the word whose text embedding is nearest to the concept's direction.

The caller gives the directions: dictionary rows, or what `naming_directions` makes of them and of
the images. Source: Rao et al. 2024, "Discover-then-Name": argmax over words of the cosine. Added:
centring, a calibrated threshold, a margin, alternatives, groups and blocked words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dncbm.errors import InvalidInput
from dncbm.naming.backoff import Backoff
from dncbm.naming.blocklist import default_blocklist
from dncbm.naming.centring import centre_directions, centre_words, mean_word
from dncbm.naming.config import NamingConfig
from dncbm.naming.index import WordIndex
from dncbm.naming.quality import calibrated_threshold, near_duplicates
from dncbm.naming.space import NamingSpace
from dncbm.naming.vocabulary import Vocabulary, unit_rows
from dncbm.types import ConceptName, ConceptStatus

_RECALL_SAMPLE = 512
_BLOCK = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Naming:
    """Names of a dictionary and how they were decided."""

    names: list[ConceptName]
    space: NamingSpace
    """In which directions and words were compared; texts are looked up in it later."""
    threshold: float | None
    """Least score of a name, or None without a threshold."""
    index_recall: float
    """Share of the true nearest words that the index finds; 1 for the exact index."""


class _Match(NamedTuple):
    """The best words of one concept."""

    rows: list[int]
    """Of the shown words, best first; -1 where there are no more."""
    scores: list[float]
    hidden: float
    """Best score of a blocked word."""


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


def name_dictionary(
    dictionary: Float[Tensor, "c d"],
    vocabulary: Vocabulary,
    *,
    config: NamingConfig | None = None,
    image_mean: Float[Tensor, "d"] | None = None,
    active: Bool[Tensor, "c"] | None = None,
    encoder_fingerprint: str | None = None,
) -> Naming:
    """One name per dictionary row, with the threshold that was used.

    A blocked word is passed over: the next best one names the concept. A concept whose best
    word is under the threshold or margin is `unnamed`, or `blocked` where only a blocked word
    passes; its alternatives then begin with the best shown word.

    Args:
        dictionary: decoder rows, or the prototypes of `concept_prototypes` where
            `config.direction` is `images`; any length above 0.
        vocabulary: words embedded by the encoder whose embeddings the dictionary explains.
        config: options; None takes the defaults, `naming_preset("paper")` is the paper's rule.
        image_mean: mean image embedding, used by `centring="words+directions"` only.
        active: concepts that some image activates. Where there is a threshold the others are
            unnamed and do not take part in it: nothing tells what they mean.
        encoder_fingerprint: of the dictionary's encoder; checked where given.

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
    words = unit_rows(vocabulary.embeddings, "word", vocabulary.words)
    space = NamingSpace(directions, mean_word(words, config.centring))
    words = centre_words(words, space.word_mean)
    shown, hidden = _split_words(vocabulary, config.blocked_words)
    index = WordIndex(words[shown], kind=config.index)
    living = torch.ones(len(directions), dtype=torch.bool) if active is None else active
    threshold = _threshold(directions[living], index, config)
    limits = torch.where(living, threshold, torch.inf).tolist() if threshold is not None else None
    matches = _matches(directions, index, words[hidden], config.alternatives + 1)
    labels = [vocabulary.words[i] for i in shown.tolist()]
    speak = Backoff(words[shown], labels, config.back_off)
    names = []
    for concept, match in enumerate(matches):
        limit = -torch.inf if limits is None else limits[concept]
        first = speak(directions[concept], match.rows[0], match.scores[0], limit)
        names.append(_decide(concept, match, first, labels, limit, config))
    recall = index.recall(directions[:_RECALL_SAMPLE], config.alternatives + 1)
    return Naming(
        names=_grouped(names, vocabulary), space=space, threshold=threshold, index_recall=recall
    )


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
    blocked = np.array([rules.blocks(word) for word in vocabulary.words])
    if (~blocked).sum() < 2:
        raise InvalidInput(
            f"The block list leaves {(~blocked).sum()} of {len(blocked)} words; naming needs at "
            "least 2. Block fewer words or add others."
        )
    return torch.from_numpy(np.flatnonzero(~blocked)), torch.from_numpy(np.flatnonzero(blocked))


def _threshold(directions: Tensor, index: WordIndex, config: NamingConfig) -> float | None:
    if config.false_name_rate is None:
        return None
    if len(directions) == 0:
        return 1.0
    return calibrated_threshold(
        directions,
        index,
        false_name_rate=config.false_name_rate,
        count=config.null_directions,
        seed=config.seed,
    )


def _matches(directions: Tensor, index: WordIndex, hidden: Tensor, count: int) -> list[_Match]:
    """Per concept: rows and scores of its best words, and the score of its best hidden one."""
    scores, rows = index.search(directions, count)
    best_hidden = torch.full((len(directions),), -torch.inf)
    if len(hidden):
        blocks = [(block @ hidden.T).amax(dim=1) for block in directions.split(_BLOCK)]
        best_hidden = torch.cat(blocks)
    return [
        _Match(*parts)
        for parts in zip(rows.tolist(), scores.tolist(), best_hidden.tolist(), strict=True)
    ]


def _decide(
    concept: int,
    match: _Match,
    first: tuple[int, float],
    labels: Sequence[str],
    limit: float,
    config: NamingConfig,
) -> ConceptName:
    best, margin = match.scores[0], max(match.scores[0] - match.scores[1], 0.0)
    others = zip(match.rows, match.scores, strict=True)
    order = [first, *((row, score) for row, score in others if row >= 0 and row != first[0])]
    ranked = tuple((labels[row], score) for row, score in order[: config.alternatives + 1])
    hidden = match.hidden
    status: ConceptStatus = "named" if best >= limit and margin >= config.min_margin else "unnamed"
    if status == "unnamed" and hidden > best and hidden >= limit:
        status = "blocked"
    named = status == "named"
    return ConceptName(
        concept=concept,
        name=ranked[0][0] if named else f"concept {concept}",
        score=first[1],
        margin=margin,
        alternatives=ranked[1:] if named else ranked[: config.alternatives],
        status=status,
        group=concept,
    )


def _grouped(names: Sequence[ConceptName], vocabulary: Vocabulary) -> list[ConceptName]:
    """The same names, where concepts of one meaning share the lowest index among them."""
    first: dict[str, int] = {}
    for name in names:
        if name.status == "named":
            first.setdefault(name.name, name.concept)
    meanings = _meanings(list(first), vocabulary)
    lowest: dict[int, int] = {}
    for word, concept in first.items():  # in the order of their concepts
        lowest.setdefault(meanings[word], concept)
    return [
        replace(name, group=lowest[meanings[name.name]]) if name.status == "named" else name
        for name in names
    ]


def _meanings(used: Sequence[str], vocabulary: Vocabulary) -> dict[str, int]:
    """A number for each word, the same for words that the encoder cannot tell apart."""
    rows = {word: row for row, word in enumerate(vocabulary.words)}
    embeddings = unit_rows(vocabulary.embeddings[[rows[word] for word in used]], "word", used)
    pairs = [(i, j) for i, j, _ in near_duplicates(embeddings)] if used else []
    links = sp.coo_matrix(
        (np.ones(len(pairs)), tuple(zip(*pairs, strict=True)) or ([], [])),
        shape=(len(used), len(used)),
    )
    _, meanings = sp.csgraph.connected_components(links, directed=False)
    return dict(zip(used, meanings.tolist(), strict=True))
