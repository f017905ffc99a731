"""Names proposed by a vision-language model that the user runs or pays for; off by default.

A proposal is only a candidate. It joins the vocabulary and is scored by the same rule as every
other word, so it can lose to one, be rejected, or be on the block list.
"""

import base64
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dncbm.errors import InvalidInput, Unavailable
from dncbm.naming.blocklist import default_blocklist
from dncbm.naming.vocabulary import Vocabulary, unit_rows

_log = logging.getLogger(__name__)

MOST_WORDS = 4
_LONGEST = 40
_PROPOSALS = 3
_LARGEST_ANSWER = 1 << 20
_TEMPORARY = {408, 429, 500, 502, 503, 504}
_ASK = (
    "These photos excite one unit of a network most. Name what they have in common and other "
    f"photos lack: up to {_PROPOSALS} short noun phrases of at most {MOST_WORDS} words, best first."
    ' Answer with a JSON list of strings and nothing else, such as ["striped shirt", "stripes"].'
)


@runtime_checkable
class NameProposer(Protocol):
    """Looks at a concept's top images and says what they might show."""

    def __call__(self, images: Sequence[bytes]) -> list[str]:
        """Phrases for JPEG images, best first; empty where nothing usable comes."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpProposer:
    """Asks an endpoint that speaks OpenAI's chat completions, images included.

    The images leave this machine if the endpoint is on another.
    """

    url: str
    """Such as http://localhost:8000/v1/chat/completions; http or https."""
    model: str
    key: str | None = None
    """Sent as a bearer token."""
    timeout: float = 60.0
    """Seconds per attempt."""
    retries: int = 2
    """More attempts where the endpoint is busy, broken or silent."""
    wait: float = 1.0
    """Seconds before the first retry, doubled before each next."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")) or not self.model:
            raise InvalidInput(
                f"The name proposer needs an http(s) address and a model, got {self.url!r} and "
                f"{self.model!r}. Give both or neither."
            )

    def __call__(self, images: Sequence[bytes]) -> list[str]:
        """Phrases for JPEG images, best first; an answer in another form counts as none.

        Raises:
            Unavailable: the endpoint refuses, or does not answer in time after all retries.
        """
        body = json.dumps(self._question(images)).encode()
        for attempt in range(self.retries + 1):
            try:
                return parse_answer(self._post(body))
            except (TimeoutError, ConnectionError, urllib.error.URLError) as error:
                status = getattr(error, "code", None)
                if attempt == self.retries or (status is not None and status not in _TEMPORARY):
                    raise Unavailable(
                        f"The name proposer at {self.url} did not answer: {error}. Start it, "
                        "correct the address, or name without it."
                    ) from error
                time.sleep(self.wait * 2**attempt)
        return []

    def _question(self, images: Sequence[bytes]) -> dict[str, Any]:
        pictures = [base64.b64encode(image).decode() for image in images]
        content: list[dict[str, Any]] = [{"type": "text", "text": _ASK}]
        content += [
            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{picture}"}}
            for picture in pictures
        ]
        messages = [{"role": "user", "content": content}]
        return {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 100}

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as answer:
            found: bytes = answer.read(_LARGEST_ANSWER)
            return found


def parse_answer(answer: bytes) -> list[str]:
    """The phrases of a chat completion whose content is a JSON list of short strings.

    Anything else is no answer: it came from a model, and ends up on pages and in files.
    """
    try:
        listed = json.loads(json.loads(answer)["choices"][0]["message"]["content"])
    except (ValueError, KeyError, IndexError, TypeError):
        listed = None
    if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
        _log.info("A name proposer's answer is not a JSON list of strings; left out.")
        return []
    return [entry.strip() for entry in listed[:_PROPOSALS] if _usable(entry.strip())]


def _usable(phrase: str) -> bool:
    """Short, printable and made of words."""
    words = phrase.split()
    plain = all(letter.isalnum() or letter in " -'" for letter in phrase)
    return plain and 0 < len(words) <= MOST_WORDS and len(phrase) <= _LONGEST


def proposals(
    proposer: NameProposer, pictures: Iterable[tuple[int, Sequence[bytes]]]
) -> dict[int, list[str]]:
    """Concept → proposed phrases that the block list allows, from (concept, its top images)."""
    rules = default_blocklist()
    found: dict[int, list[str]] = {}
    for concept, images in pictures:
        if images:
            found[concept] = [phrase for phrase in proposer(images) if not rules.blocks(phrase)]
    return found


def extended(
    vocabulary: Vocabulary, words: Iterable[str], encode_texts: Callable[..., Tensor]
) -> Vocabulary:
    """The vocabulary with further words, embedded as its own were; known ones are left out."""
    known = {word.casefold() for word in vocabulary.words}
    fresh: dict[str, str] = {}
    for word in words:
        if word.casefold() not in known:
            fresh.setdefault(word.casefold(), word)
    if not fresh:
        return vocabulary
    added = list(fresh.values())
    rows = unit_rows(encode_texts(added, templates=vocabulary.templates), "word", added)
    embeddings = torch.cat([vocabulary.embeddings, rows.to(vocabulary.embeddings.dtype)])
    # An index kept for the old words does not fit the new ones.
    return replace(
        vocabulary, words=(*vocabulary.words, *added), embeddings=embeddings, fingerprint=""
    )
