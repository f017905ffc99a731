"""Our two-step preprocessing is open_clip's, bit by bit, and safe for thin pictures."""

import pickle

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from dncbm.encoders.preprocess import Preprocess
from tests.oracles import encoders as oracle
from tests.unit.data.pictures import noise


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(30, 20), (20, 41), (16, 16)])
def test_equal_to_open_clip(resize_mode: str, interpolation: str, size: tuple[int, int]) -> None:
    config = {"size": 16, "resize_mode": resize_mode, "interpolation": interpolation}
    image = noise(1, *size)
    theirs = image_transform_v2(PreprocessCfg(**config), is_train=False)(image)
    torch.testing.assert_close(Preprocess(config)(image), theirs, rtol=0, atol=0)


def test_normalisation_against_the_plain_formula() -> None:
    image, mean, std = noise(2, 8, 8), (0.1, 0.5, 0.7), (0.2, 0.3, 0.4)
    found = Preprocess({"size": 8, "mean": mean, "std": std})(image)
    expected = oracle.normalised_pixels(image, mean, std)
    np.testing.assert_allclose(found.double().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(1, 200_000), (200_000, 1)])
def test_a_picture_of_one_line_needs_little_memory(resize_mode: str, size: tuple[int, int]) -> None:
    preprocess = Preprocess({"size": 16, "resize_mode": resize_mode})
    assert preprocess(Image.new("RGB", size)).shape == (3, 16, 16)


def test_it_can_be_sent_to_workers() -> None:
    preprocess = Preprocess({"size": 16})
    copy = pickle.loads(pickle.dumps(preprocess))
    image = noise(3)
    torch.testing.assert_close(copy(image), preprocess(image), rtol=0, atol=0)


def test_it_does_not_change_its_input() -> None:
    pixels = torch.full((1, 16, 16, 3), 7, dtype=torch.uint8)
    Preprocess({"size": 16}).normalise(pixels)
    assert (pixels == 7).all()
