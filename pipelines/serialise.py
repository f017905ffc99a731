"""Results as plain values, the same words in the command line and the service."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dncbm.types import Prediction

_NUMBERS = 3
"""Concepts of one name that are told by number on the command line; `--json` tells all."""


def label(concept: Mapping[str, Any]) -> str:
    """How a person tells concepts of one name apart: `dress #56`; `concept 56` as it is.

    Several that were added up are told by the strongest: `dress #56 #12 #4 and 2 more`.
    """
    name, index = concept["name"], concept["concept"]
    if name == f"concept {index}":
        return name
    numbers = concept.get("concepts") or [index]
    shown = [f"#{number}" for number in numbers[:_NUMBERS]]
    more = len(numbers) - len(shown)
    return " ".join([name, *shown]) + (f" and {more} more" if more else "")


def prediction_dict(prediction: Prediction) -> dict[str, Any]:
    """A prediction with the outward field names: `class` is the class name."""
    return {
        "class": prediction.class_name,
        "probability": prediction.probability,
        "logit": prediction.logit,
        "bias": prediction.bias,
        "remainder": prediction.remainder,
        "contributions": [asdict(item) for item in prediction.contributions],
    }
