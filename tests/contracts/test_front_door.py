import subprocess
import sys

import pytest

import dncbm


def test_the_front_door_is_sorted_complete_and_importable() -> None:
    assert dncbm.__all__ == sorted(dncbm.__all__)
    assert dir(dncbm) == dncbm.__all__
    for name in dncbm.__all__:
        assert getattr(dncbm, name) is not None


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = dncbm.nonsense


@pytest.mark.parametrize("heavy", ["torch", "faiss", "fastapi", "open_clip", "sklearn", "pandas"])
def test_importing_dncbm_stays_light(heavy: str) -> None:
    code = f"import sys, dncbm; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
