from pathlib import Path

import pytest

from dncbm.errors import InvalidInput
from pipelines.recipes import Recipe, read_recipe


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
    assert Recipe(**recipe.as_dict()).as_dict() == recipe.as_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1", "must name an output directory"),
        ('out = "o"\nsed = 1', "unknown fields sed"),
        ("out = ", "is not valid"),
        ('out = "o"\nseed = -1', "seed is -1; it must be at least 0"),
        ('out = "o"\ndata = "a"\ndataset = "b"', "Both data and dataset"),
        ('out = "o"\ntemplates = ["no slot"]', "Each template needs one"),
        ('out = "o"\nseed = "x"', "wrong type"),
    ],
)
def test_a_bad_recipe_is_refused_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_recipe(write(tmp_path, text))


def test_missing_and_non_table_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="Cannot read the recipe"):
        read_recipe(tmp_path / "absent.toml")
    with pytest.raises(InvalidInput, match="must hold a table"):
        read_recipe(write(tmp_path, "[1]", "run.json"))
