"""B-cos networks: classifiers and encoders that are one linear map of each input."""

from dncbm.bcos.models.zoo import create_model

__all__ = ["create_model"]
