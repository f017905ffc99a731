from dncbm.artifacts import slug


def test_slugs_are_safe_in_addresses() -> None:
    assert slug("My Clothes (v2)") == "my-clothes-v2"
    assert slug("Été_2024") == "ete-2024"
    assert slug("../..") == "model"
