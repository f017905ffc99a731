"""Named recipes, fitted to the number of rows at hand."""

from typing import Any

from dncbm.errors import InvalidInput, UnknownName
from dncbm.sae.config import SaeConfig

_FULL_EXPANSION = 8
_AMPLE = 32
"""Rows per concept from which the learning rate may be high and concepts are exchanged."""
_EXCHANGES = (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
"""While the learning rate is held, with time left to settle."""


def preset(name: str, *, embed_dim: int, num_rows: int, **overrides: Any) -> SaeConfig:
    """The configuration called `name` for `num_rows` embeddings of width `embed_dim`.

    - `default`: what we found best, see docs/benchmarks/recovery.md.
    - `relu`, `gated`, `jumprelu`, `batchtopk`, `matryoshka`, `msae`, `archetypal`: the default's
      data treatment, budget and schedule with another variant, about as sparse.
    - `topk`: plain TopK of Gao et al. (2406.04093) with the auxiliary loss.
    - `dncbm-paper`: Discover-then-Name to the letter, whatever the number of rows.

    Args:
        name: one of `PRESETS`.
        embed_dim: width of the embeddings.
        num_rows: how many rows will be trained on.
        overrides: fields of `SaeConfig` that replace the preset's.

    Raises:
        UnknownName: no such preset, or no such field.
    """
    if name not in PRESETS:
        raise UnknownName("SAE preset", name, PRESETS)
    if num_rows < 2:
        raise InvalidInput(f"Got {num_rows} rows; an SAE needs at least 2. Embed more images.")
    for key in overrides:
        if key not in SaeConfig.__dataclass_fields__:
            raise UnknownName("SAE setting", key, SaeConfig.__dataclass_fields__)
    fixed = {"embed_dim": embed_dim} | overrides
    concepts = int(fixed.get("num_concepts", concepts_for(embed_dim, num_rows, name)))
    recipe = PRESETS[name](embed_dim, num_rows, concepts)
    if fixed.get("archetypes") or fixed.get("activation") == "relu":
        recipe["exchange"] = ()  # of free rows only, and not of codes that a penalty shrinks
    if fixed.get("biases") is False:
        recipe |= {"center": False, "exchange": ()}
    return SaeConfig(**{**recipe, **fixed})


def concepts_for(embed_dim: int, num_rows: int, name: str = "default") -> int:
    """Dictionary size: expansion 8 where there are rows to fill it.

    A concept needs rows that show it: below `8 * embed_dim * 4` rows the dictionary holds one
    concept per four rows, never fewer than 32. `dncbm-paper` always expands by 8.
    """
    full = _FULL_EXPANSION * embed_dim
    if name == "dncbm-paper":
        return full
    return max(min(full, 32), min(full, num_rows // 4))


def _dncbm_paper(embed_dim: int, num_rows: int, concepts: int) -> dict[str, Any]:
    return {
        "num_concepts": concepts,
        "activation": "relu",
        "init": "paper",
        "reduction": "mean",
        "l1": 3e-5,
        "resample_every": 10,
        "resample_rows": 819_200,
        "epochs": 200,
        "batch_size": 4096,
        "lr": 5e-4,
        "precision": "float32",
        "seed": 49,
    }


def _topk(embed_dim: int, num_rows: int, concepts: int) -> dict[str, Any]:
    batch_size, epochs = _budget(num_rows)
    return {
        "num_concepts": concepts,
        "activation": "topk",
        "k": _codes_per_row(embed_dim, concepts),
        "init": "tied",
        "reduction": "mean",
        "aux_weight": 1 / 32,
        "aux_k": max(1, embed_dim // 2),
        "dead_after": max(num_rows, 10 * batch_size),
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": 1e-3,
    }


def _default(embed_dim: int, num_rows: int, concepts: int) -> dict[str, Any]:
    batch_size, epochs = _budget(num_rows)
    # Coordinates of a unit row have size 1/sqrt(d); Adam moves each by about lr per step. A rate
    # that is held finds directions that one which falls from the start no longer reaches; where a
    # concept has only a few rows, fast steps leave most concepts dead.
    ample = num_rows >= _AMPLE * concepts
    return _topk(embed_dim, num_rows, concepts) | {
        "center": True,
        "scale": True,
        "exchange": _EXCHANGES if ample else (),
        "lr": (0.12 if ample else 0.045) / embed_dim**0.5,
        "schedule": "held",
        "warmup": 50,
    }


def _relu(embed_dim: int, num_rows: int, concepts: int) -> dict[str, Any]:
    return _penalised(embed_dim, num_rows, concepts) | {
        "activation": "relu",
        "l1": 2.5 / embed_dim,
        "exchange": (),  # a newcomer escapes the penalty that shrinks the others
    }


def _gated(embed_dim: int, num_rows: int, concepts: int) -> dict[str, Any]:
    own = {"activation": "gated", "l1": 4.0 / embed_dim}
    return _penalised(embed_dim, num_rows, concepts) | own


def _jumprelu(embed_dim: int, num_rows: int, concepts: int) -> dict[str, Any]:
    own = {"activation": "jumprelu", "l0": 1.0, "bandwidth": 0.3}
    return _penalised(embed_dim, num_rows, concepts) | own


def _penalised(embed_dim: int, num_rows: int, concepts: int) -> dict[str, Any]:
    """A penalty keeps no number of codes fixed, so it comes in slowly, over faster steps."""
    default = _default(embed_dim, num_rows, concepts)
    return default | {"sparsity_warmup": 0.25, "lr": 1.5 * default["lr"]}


def _batchtopk(embed_dim: int, num_rows: int, concepts: int) -> dict[str, Any]:
    return _default(embed_dim, num_rows, concepts) | {"activation": "batchtopk"}


def _matryoshka(embed_dim: int, num_rows: int, concepts: int) -> dict[str, Any]:
    return _batchtopk(embed_dim, num_rows, concepts) | {"levels": (1 / 16, 3 / 16, 7 / 16, 1.0)}


def _msae(embed_dim: int, num_rows: int, concepts: int) -> dict[str, Any]:
    own = {"levels": (0.25, 0.5, 1.0), "levels_by": "rank"}
    return _default(embed_dim, num_rows, concepts) | own


def _archetypal(embed_dim: int, num_rows: int, concepts: int) -> dict[str, Any]:
    return _default(embed_dim, num_rows, concepts) | {"archetypes": concepts, "exchange": ()}


def _codes_per_row(embed_dim: int, concepts: int) -> int:
    """A sixteenth of the dictionary, from 8 to 32: concepts of small ones stay sparse too.

    At most a quarter of the width (or 8): with as many codes as numbers nothing has to be sparse.
    """
    return min(concepts, max(8, min(32, concepts // 16, embed_dim // 4)))


def _budget(num_rows: int, steps: int = 1000) -> tuple[int, int]:
    """Batch size and epochs: about `steps` updates on small data, at least 25 epochs."""
    batch_size = max(1, min(4096, num_rows // 8))
    per_epoch = -(-num_rows // batch_size)
    return batch_size, max(25, -(-steps // per_epoch))


PRESETS = {
    "archetypal": _archetypal,
    "batchtopk": _batchtopk,
    "default": _default,
    "dncbm-paper": _dncbm_paper,
    "gated": _gated,
    "jumprelu": _jumprelu,
    "matryoshka": _matryoshka,
    "msae": _msae,
    "relu": _relu,
    "topk": _topk,
}
