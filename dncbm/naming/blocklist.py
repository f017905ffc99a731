"""Words that are never shown as the name of a concept."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_BREAKS = re.compile(r"[\s_\-/]+")
_EDGES = "\"'.,;:!?()[]{}#*"


@dataclass(frozen=True, slots=True)
class BlockList:
    """Rules that hide words, stems of words and whole phrases, whatever their case."""

    words: frozenset[str]
    stems: tuple[str, ...]
    phrases: frozenset[str]
    exempt: frozenset[str]

    def blocks(self, phrase: str) -> bool:
        """Whether a token, a stem of one, or a phrase within `phrase` is on the list."""
        return self.blocked([phrase])[0]

    def blocked(self, phrases: Iterable[str]) -> list[bool]:
        """`blocks` of each; a million phrases share a few thousand tokens, judged once each."""
        known = cache(self._blocks_token)
        return [self._blocks(phrase, known) for phrase in phrases]

    def _blocks(self, phrase: str, blocks_token: Callable[[str], bool]) -> bool:
        tokens = [token.strip(_EDGES) for token in _BREAKS.split(phrase.casefold())]
        tokens = [token for token in tokens if token]
        if any(map(blocks_token, tokens)):
            return True
        parts = (
            " ".join(tokens[start:end])
            for start in range(len(tokens) - 1)
            for end in range(start + 2, len(tokens) + 1)
        )
        return any(part in self.phrases for part in parts)

    def _blocks_token(self, token: str) -> bool:
        forms = {token, token.removesuffix("'s"), token.removesuffix("s")}
        if token in self.exempt:
            return False
        return not forms.isdisjoint(self.words) or token.startswith(self.stems)

    def with_words(self, extra: Iterable[str]) -> "BlockList":
        """The list plus rules of the user, in the format of `parse_rules`."""
        other = parse_rules(extra)
        return BlockList(
            words=self.words | other.words,
            stems=(*self.stems, *other.stems),
            phrases=self.phrases | other.phrases,
            exempt=self.exempt | other.exempt,
        )


def parse_rules(rules: Iterable[str]) -> BlockList:
    """Read rules: `word`, `stem*`, `two words`, `!exempt`; `#` begins a comment line."""
    clean = [rule.strip().casefold() for rule in rules]
    clean = [rule for rule in clean if rule and not rule.startswith("#")]
    plain = [rule for rule in clean if not rule.startswith("!") and not rule.endswith("*")]
    spaced = {rule: " ".join(filter(None, _BREAKS.split(rule))) for rule in plain}
    return BlockList(
        words=frozenset(rule for rule in spaced.values() if " " not in rule),
        stems=tuple(rule[:-1] for rule in clean if rule.endswith("*") and len(rule) > 1),
        phrases=frozenset(rule for rule in spaced.values() if " " in rule),
        exempt=frozenset(rule[1:] for rule in clean if rule.startswith("!")),
    )


@cache
def default_blocklist() -> BlockList:
    """The list that ships with dncbm: slurs, sexual, violent and drug terms."""
    text = files("vocab").joinpath("blocked.txt").read_text(encoding="utf-8")
    return parse_rules(text.splitlines())
