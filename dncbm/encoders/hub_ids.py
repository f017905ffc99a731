"""Ids of well-known models on the Hugging Face hub, and what open_clip calls the same weights.

OpenAI and Google publish theirs in the format of the transformers library, which open_clip does
not read; other organisations' ids are taken for open_clip's own format.
"""

_SIGLIP = {
    "siglip-base-patch16-224": "ViT-B-16-SigLIP",
    "siglip-base-patch16-256": "ViT-B-16-SigLIP-256",
    "siglip-base-patch16-256-multilingual": "ViT-B-16-SigLIP-i18n-256",
    "siglip-base-patch16-384": "ViT-B-16-SigLIP-384",
    "siglip-base-patch16-512": "ViT-B-16-SigLIP-512",
    "siglip-large-patch16-256": "ViT-L-16-SigLIP-256",
    "siglip-large-patch16-384": "ViT-L-16-SigLIP-384",
    "siglip-so400m-patch14-224": "ViT-SO400M-14-SigLIP",
    "siglip-so400m-patch14-384": "ViT-SO400M-14-SigLIP-384",
    "siglip-so400m-patch16-256-i18n": "ViT-SO400M-16-SigLIP-i18n-256",
    "siglip2-base-patch32-256": "ViT-B-32-SigLIP2-256",
    "siglip2-base-patch16-224": "ViT-B-16-SigLIP2",
    "siglip2-base-patch16-256": "ViT-B-16-SigLIP2-256",
    "siglip2-base-patch16-384": "ViT-B-16-SigLIP2-384",
    "siglip2-base-patch16-512": "ViT-B-16-SigLIP2-512",
    "siglip2-large-patch16-256": "ViT-L-16-SigLIP2-256",
    "siglip2-large-patch16-384": "ViT-L-16-SigLIP2-384",
    "siglip2-large-patch16-512": "ViT-L-16-SigLIP2-512",
    "siglip2-so400m-patch14-224": "ViT-SO400M-14-SigLIP2",
    # 384 pixels are no whole number of 14-pixel patches: 378 are what the model sees.
    "siglip2-so400m-patch14-384": "ViT-SO400M-14-SigLIP2-378",
    "siglip2-so400m-patch16-256": "ViT-SO400M-16-SigLIP2-256",
    "siglip2-so400m-patch16-384": "ViT-SO400M-16-SigLIP2-384",
    "siglip2-so400m-patch16-512": "ViT-SO400M-16-SigLIP2-512",
    "siglip2-giant-opt-patch16-256": "ViT-gopt-16-SigLIP2-256",
    "siglip2-giant-opt-patch16-384": "ViT-gopt-16-SigLIP2-384",
}

OPEN_CLIP_NAMES: dict[str, tuple[str, str]] = {
    "openai/clip-vit-base-patch32": ("ViT-B-32", "openai"),
    "openai/clip-vit-base-patch16": ("ViT-B-16", "openai"),
    "openai/clip-vit-large-patch14": ("ViT-L-14", "openai"),
    "openai/clip-vit-large-patch14-336": ("ViT-L-14-336", "openai"),
    **{f"google/{name}": (model, "webli") for name, model in _SIGLIP.items()},
}
"""Id on the hub -> architecture and tag of open_clip."""
