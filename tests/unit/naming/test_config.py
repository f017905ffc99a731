import json
from typing import Any

import pytest

from dncbm.errors import InvalidInput, UnknownName
from dncbm.naming.config import PRESETS, NamingConfig, naming_preset


def test_paper_preset_is_the_bare_rule() -> None:
    paper = naming_preset("paper")
    assert (paper.centring, paper.false_name_rate, paper.min_margin) == ("none", None, 0.0)
    assert naming_preset("default") == NamingConfig()
    assert naming_preset("paper", alternatives=3).alternatives == 3
    assert naming_preset("default", blocked_words=("gun*",)).blocked_words == ("gun*",)


def test_options_are_json(tmp_path: Any) -> None:
    for config in PRESETS.values():
        values = json.loads(json.dumps(config.as_dict()))
        values |= {name: tuple(values[name]) for name in ("blocked_words", "templates")}
        assert NamingConfig(**values) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"centring": "image"}, "Unknown centring 'image'"),
        ({"false_name_rate": 0.0}, "false_name_rate is 0.0; it must lie between 0 and 1"),
        ({"false_name_rate": float("nan")}, "false_name_rate is nan"),
        ({"alternatives": 0}, r"alternatives is 0; it must be at least 1"),
        ({"null_directions": 5}, r"null_directions is 5; it must be at least 100"),
        ({"min_margin": -0.1}, r"min_margin is -0.1; it must be at least 0"),
        ({"back_off": -1.0}, r"back_off is -1.0; it must be at least 0"),
        ({"target_precision": 1.0}, "target_precision is 1.0; it must lie between 0 and 1"),
        ({"voters": 0}, "voters is 0; it must be at least 1"),
        ({"hubness": -1.0}, "hubness is -1.0; it must be at least 0"),
        ({"templates": ("a photo",)}, "naming template needs one '{}'"),
        ({"index": "annoy"}, "Unknown index 'annoy'"),
    ],
)
def test_options_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        NamingConfig(**values)


def test_unknown_presets_and_options() -> None:
    with pytest.raises(UnknownName, match=r"Unknown naming preset 'papre'. Nearest .*: paper"):
        naming_preset("papre")
    with pytest.raises(UnknownName, match="Unknown naming option 'threshold'"):
        naming_preset("paper", threshold=1)
