import pytest

from dncbm.errors import InvalidInput, UnknownName
from dncbm.sae.presets import PRESETS, preset


def test_the_paper_preset_is_the_paper() -> None:
    config = preset("dncbm-paper", embed_dim=512, num_rows=3_000_000)
    assert config.num_concepts == 4096
    assert (config.activation, config.init, config.reduction) == ("relu", "paper", "mean")
    assert (config.lr, config.l1, config.batch_size, config.epochs) == (5e-4, 3e-5, 4096, 200)
    assert (config.resample_every, config.resample_rows, config.seed) == (10, 819_200, 49)
    assert (config.schedule, config.precision) == ("constant", "float32")
    changes = (config.center, config.scale, config.normalize, config.aux_weight)
    assert not any(changes)


@pytest.mark.parametrize("num_rows", [2, 40, 500, 4_000, 200_000, 3_000_000])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits_every_size(name: str, num_rows: int) -> None:
    config = preset(name, embed_dim=512, num_rows=num_rows)
    assert config.embed_dim == 512
    assert config.total_steps(num_rows) >= 25
    if name != "dncbm-paper":
        assert config.batch_size <= num_rows
        assert 32 <= config.num_concepts <= 4096
        assert config.num_concepts <= max(32, num_rows)


def test_overrides_win_and_k_follows_the_size() -> None:
    config = preset("default", embed_dim=16, num_rows=100, num_concepts=5, lr=0.25)
    assert (config.num_concepts, config.lr) == (5, 0.25)
    assert config.k <= 5


@pytest.mark.parametrize(
    ("embed_dim", "num_rows", "k"),
    [(512, 150, 8), (512, 691, 10), (256, 3_068, 32), (512, 3_000_000, 32), (32, 10_000, 8)],
)
def test_codes_per_row_are_a_small_share_of_concepts_and_of_the_width(
    embed_dim: int, num_rows: int, k: int
) -> None:
    config = preset("default", embed_dim=embed_dim, num_rows=num_rows)
    assert config.k == k
    assert config.k <= max(8, min(config.num_concepts // 16, embed_dim // 4))


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Nearest known names: dncbm-paper"):
        preset("dncbm", embed_dim=8, num_rows=10)
    with pytest.raises(UnknownName, match="epochs"):
        preset("default", embed_dim=8, num_rows=10, epoch=3)
    with pytest.raises(InvalidInput, match="Got 1 rows"):
        preset("default", embed_dim=8, num_rows=1)
