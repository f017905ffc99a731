import open_clip
import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor

from dncbm.bcos.convert import EXACT, convert, convert_clip, load_bcosified
from dncbm.bcos.inputs import ImageModel
from dncbm.encoders.clip import load_encoder
from dncbm.errors import ArtifactMismatch
from tests.unit.bcos.convert_zoo import (
    CLIP_RESNET,
    CLIP_VIT,
    SMALL,
    clip,
    largest_error,
    randomised,
    unaccounted,
)


@pytest.mark.parametrize(("vision", "size"), [(CLIP_VIT, 16), (CLIP_RESNET, 64)])
@torch.no_grad()
def test_a_converted_clip_shares_all_but_its_image_tower(vision: dict, size: int) -> None:
    model = clip(vision).eval()
    model.visual.image_mean = (0.1, 0.2, 0.3)
    converted = convert_clip(model, EXACT)
    assert converted.transformer is model.transformer
    assert not isinstance(model.visual, ImageModel)
    preprocess = open_clip.model.get_model_preprocess_cfg
    assert preprocess(converted) == preprocess(model)
    pixels, texts = torch.randn(2, 3, size, size), torch.randint(1, 20, (2, 6))
    assert torch.equal(converted.encode_text(texts), model.encode_text(texts))
    assert largest_error(converted.encode_image(pixels), model.encode_image(pixels)) <= 1e-5


def test_the_bundled_encoder_converts_exactly_and_by_the_recipe() -> None:
    tower = load_encoder("mini", device="cpu").image_tower()
    pixels = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        error = largest_error(convert(tower, EXACT, check=False)(pixels), tower(pixels))
    assert error <= 1e-5
    assert unaccounted(convert(tower, check=False).double(), pixels.double()) <= 1e-9


def released(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of the authors' CLIP checkpoints."""
    names = {name: name.replace("c_proj.", "c_proj.linear.") for name in state}
    teacher = {"model.clip_model.visual.conv1.weight": torch.zeros(1)}
    return {f"model.model.{names[name]}": value for name, value in state.items()} | teacher


def test_released_checkpoints_load_by_their_names() -> None:
    source, target = (
        convert(randomised(SMALL["open_clip resnet"][0], seed=seed), check=False) for seed in (0, 1)
    )
    state = released(source.network.state_dict())
    load_bcosified(target, state)
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(source(pixels), target(pixels))
    del state["model.model.conv1.linear.weight"]
    state["model.model.fc.weight"] = torch.zeros(2)
    with pytest.raises(ArtifactMismatch, match=r"1 missing .conv1\.lin.*1 unexpected .fc\.weight"):
        load_bcosified(target, state)


def test_weights_load_below_a_logit_bias_too() -> None:
    model = randomised(SMALL["torchvision densenet"][0])
    plain, shifted = convert(model, check=False), convert(model, check=False, logit_bias=-1.0)
    load_bcosified(shifted, plain.network.state_dict())
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.allclose(shifted(pixels), plain(pixels) - 1)


def test_a_tower_that_takes_one_size_is_checked_at_that_size() -> None:
    """Without its positions the converted one would take the smaller trial image too."""
    torch.manual_seed(0)
    tower = ModifiedResNet([1, 1, 1, 1], output_dim=8, heads=8, image_size=96, width=8).eval()
    with pytest.raises(RuntimeError, match="size of tensor"):
        tower(torch.randn(1, 3, 64, 64))
    exact = convert(tower, EXACT)
    pixels = torch.randn(1, 3, 96, 96)
    torch.testing.assert_close(exact(pixels), tower(pixels), rtol=1e-3, atol=1e-5)
    assert convert(tower)(pixels).shape == (1, 8)
