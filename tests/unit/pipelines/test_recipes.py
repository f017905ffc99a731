from pathlib import Path

import pytest

from dncbm.errors import InvalidInput
from pipelines.recipes import Recipe, located, merged, read_recipe


def write(tmp_path: Path, text: str, name: str = "run.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_toml_recipe_is_read_relative_to_its_file(tmp_path: Path) -> None:
    text = 'data = "photos"\nout = "result"\ntemplates = ["{}"]\n[sae]\nnum_concepts = 64\n'
    recipe, out = read_recipe(write(tmp_path, text))
    assert recipe.data == str(tmp_path / "photos")
    assert recipe.sae == {"num_concepts": 64}
    assert recipe.templates == ("{}",)
    assert out == tmp_path / "result"


def test_a_json_recipe_round_trips(tmp_path: Path) -> None:
    recipe, _ = read_recipe(write(tmp_path, '{"out": "o", "seed": 3}', "run.json"))
    assert recipe == Recipe(seed=3)
    assert Recipe.of(recipe.as_dict()).as_dict() == recipe.as_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1", "must name an output directory"),
        ('out = "o"\nsed = 1', "unknown fields sed"),
        ("out = ", "is not valid"),
        ('out = "o"\nseed = -1', "seed is -1; it must be at least 0"),
        ('out = "o"\ndata = "a"\ndataset = "b"', "Both data and dataset"),
        ('out = "o"\ntemplates = ["no slot"]', "Each template needs one"),
        ('out = "o"\nseed = "x"', "seed is 'x'; it must be a whole number"),
        ('out = "o"\nseed = true', "seed is True; it must be a whole number"),
        ('out = "o"\ndata = 5', "data is 5; it must be a text"),
        ('out = "o"\nsae = 5', "sae is 5; it must be a table"),
        (
            'out = "o"\ntemplates = "{}"',
            "templates is '{}'; it must be a list of which",
        ),
        ('out = "o"\nblocked_words = [1]', "it must be a list of which each is a text"),
    ],
)
def test_a_bad_recipe_is_refused_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_recipe(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:beans", "hf:beans"),
        ("torchvision:CIFAR10", "torchvision:CIFAR10"),
        ("s3://bucket/photos.zip", "s3://bucket/photos.zip"),
        ("/photos", "/photos"),
        ("../photos.zip", "/base/photos.zip"),
        ("photos", "/base/here/photos"),
    ],
)
def test_paths_become_absolute_and_addresses_stay(text: str, expected: str) -> None:
    assert Recipe(data=text).located(Path("/base/here")).data == expected


def test_the_home_folder_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert located("~/photos", Path("/base")) == str(tmp_path / "photos")


def test_files_in_the_name_of_an_encoder_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_text("")
    (tmp_path / "folder").mkdir()
    names = {
        "ViT-B-32:weights.pt": f"ViT-B-32:{tmp_path}/weights.pt",
        "ViT-B-32:openai@weights.pt": f"ViT-B-32:openai@{tmp_path}/weights.pt",
        "local-dir:folder": f"local-dir:{tmp_path}/folder",
        "ViT-B-32:openai": "ViT-B-32:openai",
        "hf-hub:org/name": "hf-hub:org/name",
        "mini": "mini",
    }
    (tmp_path / "openai").mkdir()  # a folder of the name of a tag is not meant
    (tmp_path / "org" / "name").mkdir(parents=True)
    for given, expected in names.items():
        assert Recipe(encoder=given).located(tmp_path).encoder == expected


def test_a_data_set_that_was_saved_here_becomes_absolute(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    for given in ("hf:saved", "saved"):
        assert Recipe(dataset=given).located(tmp_path).dataset == f"hf:{tmp_path}/saved"
    assert Recipe(dataset="hf:beans").located(tmp_path).dataset == "hf:beans"
    assert Recipe(dataset="torchvision:CIFAR10").located(tmp_path).dataset == "torchvision:CIFAR10"


def test_overrides_add_up_and_can_be_taken_back() -> None:
    old = {"seed": 1, "sae": {"k": 16, "epochs": 5}, "probe": {"solver": "paper"}}
    new = merged(old, {"sae": {"k": 8, "epochs": ""}, "naming": {"centring": "none"}})
    assert new == {
        "seed": 1, "sae": {"k": 8}, "probe": {"solver": "paper"}, "naming": {"centring": "none"},
    }  # fmt: skip


def test_missing_and_non_table_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="Cannot read the recipe"):
        read_recipe(tmp_path / "absent.toml")
    with pytest.raises(InvalidInput, match="must hold a table"):
        read_recipe(write(tmp_path, "[1]", "run.json"))
