"""B-cos networks: classifiers and encoders that are one linear map of each input."""

from dncbm.bcos.models.network import replace_head
from dncbm.bcos.models.weights import load_weights
from dncbm.bcos.models.zoo import create_model, model_names

__all__ = ["create_model", "load_weights", "model_names", "replace_head"]
