"""Do the parts of a model belong together? Their manifests know what each was made of."""

from dncbm.artifacts import Manifest, require_input
from dncbm.encoders.cache import EmbeddingsArtifact
from dncbm.encoders.clip import Encoder
from dncbm.naming.dictionary import Dictionary
from dncbm.sae.store import LoadedSae


def require_same_photos(embeddings: EmbeddingsArtifact, sae: LoadedSae, encoder: Encoder) -> None:
    """Refuse an autoencoder of other embeddings, or embeddings of another encoder, by name.

    Raises:
        ArtifactMismatch: an encoder or embeddings of another origin.
    """
    _require(embeddings.manifest, "encoder", encoder.fingerprint)
    _require(sae.manifest, "embeddings", embeddings.manifest.fingerprint)


def require_one_origin(
    embeddings: EmbeddingsArtifact, sae: LoadedSae, dictionary: Dictionary, encoder: Encoder
) -> None:
    """Refuse parts that do not belong together, by name.

    Raises:
        ArtifactMismatch: an encoder, embeddings or an autoencoder of another origin.
    """
    require_same_photos(embeddings, sae, encoder)
    _require(dictionary.manifest, "encoder", encoder.fingerprint)
    _require(dictionary.manifest, "sae", sae.manifest.fingerprint)


def _require(manifest: Manifest, role: str, actual: str) -> None:
    require_input(
        manifest,
        role,
        actual,
        artifact=f"The {manifest.kind} artifact",
        remedy="Run the stage that made it again on the new input.",
    )
