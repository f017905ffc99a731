"""How concepts are named: options and presets."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from dncbm.config import check_types
from dncbm.errors import InvalidInput, UnknownName
from dncbm.naming.centring import CENTRINGS
from dncbm.naming.index import INDEX_KINDS

DIRECTIONS = ("dictionary", "images", "both")


@dataclass(frozen=True, kw_only=True, slots=True)
class NamingConfig:
    """Options of `assign_names`; the defaults are the `default` preset."""

    direction: str = "images"
    """What `naming_directions` prepares for the comparison with the words: `dictionary`, the
    concept's row (the paper); `images`, the prototype of the images on which it is active;
    `both`, halfway between the two. Measured in docs/benchmarks/naming.md."""
    centring: str = "words"
    """`none` (the paper), `words` (subtract the mean word), `words+directions` (also remove
    the part of each direction that lies along the image mean)."""
    false_name_rate: float | None = 0.05
    """Share of meaningless directions that may get a name; sets the threshold. None: no
    threshold, every concept is named."""
    min_margin: float = 0.0
    """The best word must beat the next by at least this much, before any back-off."""
    back_off: float = 0.1
    """A phrase gives way to the shortest run of its words ("cat scanner" to "cat") that lacks at
    most this much of its score; 0 never."""
    alternatives: int = 5
    """Next best words kept per concept."""
    blocked_words: tuple[str, ...] = ()
    """Rules of the user besides the list that ships: `word`, `stem*`, `two words`."""
    index: str = "exact"
    """`approximate` for vocabularies far beyond 100,000 words."""
    null_directions: int = 2000
    """Random directions from which the threshold is calibrated."""
    seed: int = 0
    """Of the random directions."""

    def __post_init__(self) -> None:
        check_types(self, "naming")
        if self.direction not in DIRECTIONS:
            raise UnknownName("naming direction", self.direction, DIRECTIONS)
        if self.centring not in CENTRINGS:
            raise UnknownName("centring", self.centring, CENTRINGS)
        if self.index not in INDEX_KINDS:
            raise UnknownName("index", self.index, INDEX_KINDS)
        rate = self.false_name_rate
        if rate is not None and not 0.0 < rate < 1.0:
            raise InvalidInput(
                f"false_name_rate is {rate}; it must lie between 0 and 1, or be None for no "
                "threshold."
            )
        if (
            self.alternatives < 1
            or self.null_directions < 100
            or not (self.min_margin >= 0 and self.back_off >= 0)
        ):
            raise InvalidInput(
                f"alternatives is {self.alternatives} (at least 1), null_directions is "
                f"{self.null_directions} (at least 100), min_margin is {self.min_margin} and "
                f"back_off is {self.back_off} (at least 0). Correct the one out of range."
            )

    def as_dict(self) -> dict[str, Any]:
        """The options as JSON-serialisable values."""
        return asdict(self) | {"blocked_words": list(self.blocked_words)}


PRESETS: dict[str, NamingConfig] = {
    "default": NamingConfig(),
    # Rao et al. 2024: nearest word to the row by cosine, no centring, every concept is named.
    "paper": NamingConfig(
        direction="dictionary", centring="none", false_name_rate=None, back_off=0.0
    ),
}


def naming_preset(name: str, **overrides: Any) -> NamingConfig:
    """The options of `default` or `paper`, with fields replaced.

    Raises:
        UnknownName: no such preset.
        InvalidInput: an override breaks a rule or does not exist.
    """
    if name not in PRESETS:
        raise UnknownName("naming preset", name, PRESETS)
    unknown = sorted(set(overrides) - set(NamingConfig.__dataclass_fields__))
    if unknown:
        raise UnknownName("naming option", unknown[0], NamingConfig.__dataclass_fields__)
    return replace(PRESETS[name], **overrides)
