"""The model card of a bundle: what a person, and the Hugging Face hub, read first."""

from collections.abc import Mapping

from dncbm.artifacts import Manifest

_CARD = """\
---
library_name: dncbm
tags:
- concept-bottleneck
- interpretability
- image-classification
---

# {title}

An image classifier whose every decision is a sum of named concepts, made by
dncbm {version} on {created}.

| | |
|---|---|
| Encoder | `{encoder}` |
| Accuracy on the test split, all concepts | {accuracy} |
| Fingerprint | `{fingerprint}` |

{pictures}

## Use

```sh
dncbm import {source}
dncbm predict {title} photo.jpg
```

`SHA256SUMS` lists the checksum of every file (`sha256sum -c SHA256SUMS`); `manifest.json` in each
folder holds the recipe it was made with.
"""

_WITH_PICTURES = (
    "`dictionary/thumbnails` holds small pictures of training photos: share this model only with "
    "those who may see them."
)


def model_card(
    title: str, manifests: Mapping[str, Manifest], source: str, *, pictures: bool
) -> str:
    """Markdown with the hub's front matter.

    Args:
        title: name of the model, a slug.
        manifests: by kind, `cbm` among them.
        source: what `dncbm import` is given.
        pictures: whether training photos are among the files.
    """
    cbm = manifests["cbm"]
    return _CARD.format(
        title=title,
        version=cbm.dncbm_version,
        created=cbm.created[:10] or "an unknown day",
        encoder=str(cbm.config.get("encoder", "unknown")).replace("`", "'"),
        accuracy=_accuracy(cbm),
        fingerprint=cbm.fingerprint,
        pictures=_WITH_PICTURES if pictures else "It holds no training photos.",
        source=source,
    )


def _accuracy(cbm: Manifest) -> str:
    value = cbm.metrics.get("accuracy")
    for key in ("test", "dense"):
        value = value.get(key) if isinstance(value, dict) else value
    return f"{value:.1%}" if isinstance(value, float) else "not measured"
