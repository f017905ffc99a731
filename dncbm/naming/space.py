"""Where concepts and texts are compared: kept, so that a search answers as the names do."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dncbm.naming.centring import centre_words
from dncbm.naming.vocabulary import unit_rows


@dataclass(frozen=True, slots=True)
class NamingSpace:
    """The directions that were compared with the words, and what was taken off the words."""

    directions: Float[Tensor, "c d"]
    """Unit norm: prototypes or dictionary rows, centred as `NamingConfig.centring` says."""
    word_mean: Float[Tensor, "d"]
    """Zeros without centring."""

    def scores(self, texts: Float[Tensor, "t d"]) -> Float[Tensor, "t c"]:
        """Cosine of each text embedding, centred as the words were, with each concept.

        A concept's own name has the score that the name has.

        Raises:
            InvalidInput: a text embedding that is not finite or has length 0.
        """
        return centre_words(unit_rows(texts, "text"), self.word_mean) @ self.directions.T
