"""Results as plain values, the same words in the command line and the service."""

from dataclasses import asdict
from typing import Any

from dncbm.types import Prediction


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
