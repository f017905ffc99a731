"""Build `words.txt`, the vocabulary of about 20,000 visual words and phrases.

    python vocab/build.py            write words.txt
    python vocab/build.py --check    fail when words.txt is not what this script makes

Sources: `own.txt` and `phrases.toml` (ours), `wordnet_visual.tsv` (see
`extract_wordnet.py`) and word frequencies of the package `wordfreq`. Filters: `blocked.txt`
(never shown), `excluded.txt` (not visual). Same inputs, same bytes; README.md has the licences.
"""

import argparse
import hashlib
import itertools
import re
import string
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from wordfreq import zipf_frequency

HERE = Path(__file__).parent
SIZE = 20_000

# Zipf frequencies (log10 per billion words): 3 is once per million words.
SINGLE_FLOOR = {
    "colour": 2.0,
    "texture": 2.4,
    "food": 1.9,
    "animal": 2.0,
    "plant": 2.3,
    "body": 2.9,
}
SINGLE_DEFAULT = 2.2
TOKEN_FLOOR = {"plant": 3.4, "animal": 3.2, "substance": 3.4, "shape": 9.0, "body": 9.0}
TOKEN_DEFAULT = 3.0
HEAD_FLOOR = 3.0


def entries(path: Path) -> list[str]:
    """The lines of a list file that are neither blank nor comments."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def own_words() -> list[str]:
    """The comma-separated words of `own.txt`."""
    raw = (HERE / "own.txt").read_text(encoding="utf-8")
    parts = [
        part for part in re.split(r"^(?:\[.*\]|#.*)$", raw, flags=re.MULTILINE) if part.strip()
    ]
    return [word for part in parts for word in split_list(part)]


def split_list(text: str) -> list[str]:
    """Comma-separated words, over several lines."""
    return [" ".join(word.split()) for word in text.split(",") if word.strip()]


def composed_phrases() -> Iterator[str]:
    """Every filled template of `phrases.toml`, without phrases that repeat a word."""
    data = tomllib.loads((HERE / "phrases.toml").read_text(encoding="utf-8"))
    for template in data["templates"]["use"]:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name]
        for values in itertools.product(*(data["lists"][name] for name in names)):
            phrase = template.format(**dict(zip(names, values, strict=True)))
            if len(set(phrase.split())) == len(phrase.split()):
                yield phrase


class Filters:
    """What may not enter: `blocked.txt` anywhere, `excluded.txt` by its own rule."""

    def __init__(self) -> None:
        rules = entries(HERE / "blocked.txt")
        self.exempt = {rule[1:] for rule in rules if rule.startswith("!")}
        self.stems = tuple(rule[:-1] for rule in rules if rule.endswith("*"))
        self.blocked = {rule for rule in rules if rule[0] != "!" and rule[-1] != "*"}
        excluded = [word for line in entries(HERE / "excluded.txt") for word in line.split()]
        self.short = {word for line in entries(HERE / "short.txt") for word in line.split()}
        self.excluded_alone = {word.lstrip("~") for word in excluded}
        self.excluded_in_phrases = {word for word in excluded if word[0] != "~"}

    def is_blocked(self, phrase: str) -> bool:
        """Whether a word, a stem or the phrase itself is on the block list."""
        tokens = re.split(r"[\s-]+", phrase)
        padded = f" {phrase} "
        return any(
            token not in self.exempt and (token in self.blocked or token.startswith(self.stems))
            for token in tokens
        ) or any(" " in rule and f" {rule} " in padded for rule in self.blocked)

    def is_excluded(self, phrase: str) -> bool:
        """Whether the phrase is not a picture by the committed lists."""
        tokens = phrase.split()
        if len(tokens) == 1:
            return phrase in self.excluded_alone
        return any(token in self.excluded_in_phrases for token in tokens)


def wordnet_rows() -> list[tuple[str, str]]:
    """(lemma, branch) of the visible nouns of WordNet."""
    lines = (HERE / "wordnet_visual.tsv").read_text(encoding="utf-8").splitlines()
    return [(line.split("\t")[0], line.split("\t")[1]) for line in lines]


def single_words(rows: Iterable[tuple[str, str]], filters: Filters) -> dict[str, float]:
    """Visible one-word nouns with their Zipf frequency."""
    found = {}
    for word, branch in rows:
        if (
            " " in word
            or (len(word) <= 3 and word not in filters.short)
            or not re.search("[aeiouy]", word)
        ):
            continue
        frequency = zipf_frequency(word, "en")
        if frequency >= SINGLE_FLOOR.get(branch, SINGLE_DEFAULT) and not filters.is_excluded(word):
            found[word] = frequency
    return {word: f for word, f in found.items() if base_form(word, found) is None}


def base_form(word: str, words: dict[str, float]) -> str | None:
    """The singular of a plural that is in `words` too, else None."""
    for ending, singular in (("ies", "y"), ("ves", "f"), ("es", ""), ("s", "")):
        base = word[: -len(ending)] + singular
        if word.endswith(ending) and not word.endswith("ss") and base in words:
            return base
    return None


def noun_phrases(
    rows: Iterable[tuple[str, str]], singles: dict[str, float], filters: Filters
) -> dict[str, float]:
    """WordNet compounds of common words whose head is a visible word, with a frequency."""
    found = {}
    for phrase, branch in rows:
        tokens = phrase.split()
        if len(tokens) < 2 or filters.is_excluded(phrase):
            continue
        frequencies = [zipf_frequency(token, "en") for token in tokens]
        floor = TOKEN_FLOOR.get(branch, TOKEN_DEFAULT)
        if min(frequencies) >= floor and singles.get(tokens[-1], 0.0) >= HEAD_FLOOR:
            found[phrase] = min(frequencies)
    return {phrase: f for phrase, f in found.items() if base_form(phrase, found) is None}


def build() -> list[str]:
    """The vocabulary: our own words, WordNet words, WordNet compounds, composed phrases."""
    filters = Filters()
    rows = wordnet_rows()
    singles = single_words(rows, filters)
    phrases = noun_phrases(rows, singles, filters)
    ordered = [
        *own_words(),
        *sorted(singles, key=lambda word: (-singles[word], word)),
        *composed_phrases(),
        *sorted(phrases, key=lambda phrase: (-phrases[phrase], phrase)),
    ]
    kept = [word for word in dict.fromkeys(ordered) if not filters.is_blocked(word)]
    return sorted(kept[:SIZE])


def main() -> int:
    """Write or check `words.txt`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    data = ("\n".join(build()) + "\n").encode()
    target = HERE / "words.txt"
    if check:
        return 0 if target.read_bytes() == data else 1
    target.write_bytes(data)
    print(f"{len(data.splitlines())} entries, sha256 {hashlib.sha256(data).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
