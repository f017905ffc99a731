"""How concepts are named: options and presets."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from dncbm.config import check_types
from dncbm.errors import InvalidInput, UnknownName
from dncbm.naming.centring import CENTRINGS
from dncbm.naming.index import INDEX_KINDS

DIRECTIONS = ("dictionary", "images", "both")
_LEAST = {
    "alternatives": 1,
    "voters": 1,
    "null_directions": 100,
    "min_margin": 0,
    "back_off": 0,
    "hubness": 0,
}


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
    back_off: float = 0.15
    """The best phrases give way to the word that most of them share ("cat scanner", "orange cat"
    to "cat") if it lacks at most this much of the best score; 0 never."""
    voters: int = 20
    """Best entries that take part in the back-off and in telling names apart."""
    distinguish: bool = True
    """Concepts of one name get what sets each apart in brackets: "dog (german shepherd)"."""
    hubness: float = 0.0
    """How much of a word's mean cosine with its nearest concepts is taken off when words are put
    in order; 0.5 is CSLS. More different names, at the price of some precision."""
    target_precision: float | None = 0.8
    """Where labels can judge names, those that promise less are rejected. None: only measured."""
    alternatives: int = 5
    """Next best words kept per concept."""
    blocked_words: tuple[str, ...] = ()
    """Rules of the user besides the list that ships: `word`, `stem*`, `two words`."""
    index: str = "auto"
    """`exact`, `approximate` (lists that FAISS ranks), or `auto`: exact up to minutes of a core."""
    templates: tuple[str, ...] = ("{}",)
    """Prompts around each word, averaged. The paper, and this, embed the bare word."""
    proposer: str = ""
    """Address of a chat endpoint that proposes names from images (`dncbm.naming.propose`); empty:
    nothing is asked. Its key is read from the variable DNCBM_PROPOSER_KEY."""
    proposer_model: str = ""
    """Model that the endpoint is asked for."""
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
        for name, without in (("false_name_rate", "threshold"), ("target_precision", "target")):
            rate = getattr(self, name)
            if rate is not None and not 0.0 < rate < 1.0:
                raise InvalidInput(
                    f"{name} is {rate}; it must lie between 0 and 1, or be None for no {without}."
                )
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:
                raise InvalidInput(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        bad = [template for template in self.templates if template.count("{}") != 1]
        if bad or not self.templates:
            raise InvalidInput(f"Each naming template needs one '{{}}' for the word; got {bad!r}.")

    def as_dict(self) -> dict[str, Any]:
        """The options as JSON-serialisable values."""
        listed = {name: list(getattr(self, name)) for name in ("blocked_words", "templates")}
        return asdict(self) | listed


PRESETS: dict[str, NamingConfig] = {
    "default": NamingConfig(),
    # Rao et al. 2024: nearest word to the row by cosine, no centring, every concept is named.
    "paper": NamingConfig(
        direction="dictionary",
        centring="none",
        false_name_rate=None,
        back_off=0.0,
        distinguish=False,
        target_precision=None,
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
