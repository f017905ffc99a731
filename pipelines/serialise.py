"""Results as plain values, the same words in the command line and the service."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dncbm.types import Prediction


def label(concept: Mapping[str, Any]) -> str:
    """How a person tells concepts of one name apart: `dress #56`; `concept 56` as it is.

    Several that were summed are all told: `dress #56 #12`.
    """
    name, index = concept["name"], concept["concept"]
    numbers = concept.get("concepts") or [index]
    return name if name == f"concept {index}" else " ".join([name, *(f"#{i}" for i in numbers)])


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
