from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dncbm.attribution.heads import text_cosines
from dncbm.attribution.pixels import last_spatial_layer, pixel_maps
from dncbm.bcos.convert import convert
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.layers import BcosConv2d
from dncbm.errors import InvalidInput, UnknownName
from dncbm.naming.dictionary import load_dictionary
from dncbm.predictor import Predictor
from dncbm.probe.store import load_cbm
from dncbm.sae.store import load_sae
from tests.api.test_real_model import write_model
from tests.unit.encoders.tiny import tiny_encoder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("pixels"))


@pytest.fixture(scope="module")
def predictor(served: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Of an encoder whose image tower is B-cosified."""
    encoder = tiny_encoder(tmp_path_factory.mktemp("encoder") / "e")
    tower = convert(encoder.image_tower(), check=False)
    assert isinstance(tower, ImageModel)
    return Predictor(
        encoder=encoder.with_image_tower(tower, spec="bcos:x", fingerprint="f"),
        sae=load_sae(served / "sae").model,
        dictionary=load_dictionary(served / "dictionary"),
        cbm=load_cbm(served / "cbm"),
    )


def _photo(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def test_a_bcos_encoder_is_explained_exactly(predictor: Predictor) -> None:
    images = [_photo(1), _photo(2)]
    found = predictor.explain(images, classes=["Shoes", 0], concepts=range(12), texts=["a cat"])
    codes = predictor.encode(predictor.embed(images))
    logits = predictor.cbm.probe.logits(codes)
    cosines = text_cosines(predictor.encoder.encode_texts(["a cat"]))(predictor.embed(images))
    for i, items in enumerate(found):
        wanted = [logits[i, 1], logits[i, 0], *codes[i], cosines[i, 0]]
        for item, value in zip(items, wanted, strict=True):
            assert item.exact
            assert item.method == "bcos"
            assert item.position is not None
            assert item.bias is not None
            assert item.picture is not None
            assert item.value == pytest.approx(float(value), rel=1e-4, abs=1e-5)
            total = item.map.sum(dtype=np.float64) + item.position + item.bias
            assert total == pytest.approx(item.value, rel=1e-3, abs=1e-4)
            assert item.map.shape == item.picture.shape[:2] == predictor.seen(images[i]).shape[:2]
    assert [item.index for item in found[0][:2]] == [1, 0]


def test_other_towers_are_explained_post_hoc() -> None:
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    tower.eval()
    assert last_spatial_layer(tower, torch.rand(1, 3, 8, 8)) is tower[1]
    head = text_cosines(torch.randn(2, 4))
    found = pixel_maps(tower, torch.rand(3, 3, 8, 8), head)
    assert (found.method, found.position, found.bias, found.pictures) == (
        "grad_cam", None, None, None,
    )  # fmt: skip
    assert found.maps.shape == (3, 2, 8, 8)
    exact = ImageModel(nn.Sequential(BcosConv2d(6, 4, 3), *tower[2:]), encoding="inverse").eval()
    assert pixel_maps(exact, torch.rand(3, 3, 8, 8), head).method == "bcos"


def test_a_tower_of_tokens_has_no_layer_to_look_at(served: Path) -> None:
    predictor = Predictor.load(served, device="cpu")
    [[item]] = predictor.explain([_photo(3)], texts=["a dog"])
    assert item.method == "smoothed integrated_gradients"
    assert not item.exact


def test_bad_targets_are_refused(predictor: Predictor) -> None:
    with pytest.raises(InvalidInput, match="No image was given"):
        predictor.explain([])
    with pytest.raises(UnknownName, match="Unknown class 'Shoe'"):
        predictor.explain([_photo(1)], classes=["Shoe"])
    with pytest.raises(InvalidInput, match="Concept -1 does not exist"):
        predictor.explain([_photo(1)], concepts=[-1])
