"""A client of the service: typed answers, the library's errors, no torch.

from dncbm.client import Client

with Client("http://127.0.0.1:8000") as client:
[decision] = client.predict("clothing", ["photo.jpg"])
print(decision.class_name, [part.name for part in decision.contributions])
"""

from dncbm.client.client import Client
from dncbm.client.transport import Photo

__all__ = ["Client", "Photo"]
