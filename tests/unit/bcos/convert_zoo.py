"""Networks of every family that can be converted, with no weight at its first 0 or 1."""

from collections.abc import Callable

import open_clip
import timm
import torch
import torchvision
from open_clip.modified_resnet import ModifiedResNet
from timm.models.vision_transformer import VisionTransformer as TimmVit
from torch import Tensor, nn

from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.mode import explanation_mode


def randomised(build: Callable[[], nn.Module], *, seed: int = 0) -> nn.Module:
    """The network in eval mode, with random weights, biases, positions and statistics.

    Built without its own initialisation, which takes longer than all the rest.
    """
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            _fill(name.rpartition(".")[2], value)
    return model.eval()


def _fill(name: str, value: Tensor) -> None:
    if not value.is_floating_point():
        value.zero_()
    elif name in ("weight", "gamma", "running_var", "layer_scale") and value.dim() != 2:
        value.uniform_(0.5, 1.5) if value.dim() == 1 else value.normal_(std=_std(value))
    elif value.dim() == 2 and ("weight" in name or name == "proj"):
        value.normal_(std=_std(value))
    else:
        value.normal_(std=0.3)


def _std(value: Tensor) -> float:
    return (1.5 / value[0].numel()) ** 0.5


def _tiny_timm_vit(**options: object) -> nn.Module:
    return TimmVit(
        img_size=16, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=3, **options
    )


def clip(vision: dict[str, object]) -> nn.Module:
    text = {"context_length": 6, "vocab_size": 20, "width": 8, "heads": 1, "layers": 1}
    return open_clip.CLIP(6, vision_cfg=vision, text_cfg=text)


CLIP_VIT = {"image_size": 16, "layers": 2, "width": 12, "head_width": 6, "patch_size": 8}
CLIP_RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}

SMALL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "torchvision resnet": (lambda: _resnet([1, 1, 1, 1]), 32),
    "torchvision densenet": (
        lambda: torchvision.models.DenseNet(6, (2, 2, 1, 1), 8, 2, num_classes=4),
        32,
    ),
    "torchvision vit": (
        lambda: torchvision.models.VisionTransformer(
            16, 8, 2, 2, 12, 16, num_classes=3, representation_size=8
        ),
        16,
    ),
    "timm vit": (lambda: _tiny_timm_vit(reg_tokens=2, init_values=0.1, qk_norm=True), 16),
    "timm vit, average": (
        lambda: _tiny_timm_vit(
            global_pool="avg", fc_norm=False, no_embed_class=True, pre_norm=True
        ),
        16,
    ),
    "timm convnext": (lambda: timm.create_model("test_convnext", num_classes=4), 32),
    "timm efficientnet": (lambda: timm.create_model("test_efficientnet", num_classes=4), 32),
    "open_clip resnet": (lambda: ModifiedResNet([1, 1, 1, 1], 6, 4, image_size=64, width=8), 64),
    "open_clip vit": (lambda: clip(CLIP_VIT | {"ls_init_value": 0.1}).visual, 16),
    "open_clip vit, average": (
        lambda: clip(CLIP_VIT | {"pool_type": "avg", "final_ln_after_pool": True}).visual,
        16,
    ),
}

FULL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "torchvision resnet18": (torchvision.models.resnet18, 32),
    "torchvision resnet50": (torchvision.models.resnet50, 32),
    "torchvision densenet121": (torchvision.models.densenet121, 32),
    "timm vit_tiny": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3), 32),
    "timm regnetx_004": (lambda: timm.create_model("regnetx_004"), 32),
}


def _resnet(layers: list[int]) -> nn.Module:
    block = torchvision.models.resnet.BasicBlock
    return torchvision.models.ResNet(block, layers, num_classes=4)


def unaccounted(model: ImageModel, pixels: Tensor) -> float:
    """Share of an output that is neither pixels nor anything that was written down.

    Also checks that values are the same, bit by bit, in and out of explanation mode.
    """
    images = model.encode(pixels).requires_grad_()
    with explanation_mode() as terms:
        output = model.network(images)
    assert torch.equal(output, model.network(images))
    row = torch.randn(output.shape, dtype=output.dtype)
    parts = [images, *(term.value for term in terms)]
    grads = torch.autograd.grad((output * row).sum(), parts, materialize_grads=True,
                                allow_unused=True)  # fmt: skip
    total = sum((grad * part).sum() for grad, part in zip(grads, parts, strict=True))
    share = ((output * row).sum() - total).abs() / (output * row).abs().sum()
    return float(share.detach())


def largest_error(found: Tensor, expected: Tensor) -> float:
    """Relative to the largest value expected."""
    return float(((found - expected).abs().max() / expected.abs().max()).detach())
