from dncbm.errors import DncbmError, InvalidInput, UnknownName


def test_an_unknown_name_lists_its_neighbours() -> None:
    error = UnknownName("encoder", "ViT-B-33", ["ViT-B-32", "RN50"], "See `dncbm doctor`.")
    assert str(error) == (
        "Unknown encoder 'ViT-B-33'. Nearest known names: ViT-B-32. See `dncbm doctor`."
    )
    assert "Known names: RN50" in str(UnknownName("encoder", "zzzz", ["RN50"]))
    assert "none" in str(UnknownName("encoder", "x", []))


def test_invalid_input_is_a_value_error_for_scikit_learn() -> None:
    assert issubclass(InvalidInput, ValueError)
    assert issubclass(InvalidInput, DncbmError)
