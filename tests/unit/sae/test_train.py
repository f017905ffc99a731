import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dncbm.errors import ArtifactMismatch, InvalidInput, Unavailable, UnknownName
from dncbm.sae.presets import preset
from dncbm.sae.rows import as_rows, input_statistics
from dncbm.sae.train import SaeConfig, TrainingRun, train_sae
from dncbm.training import precision as precision_module


def _config(**changes: Any) -> SaeConfig:
    values: dict[str, Any] = {
        "embed_dim": 6,
        "num_concepts": 12,
        "k": 3,
        "batch_size": 16,
        "epochs": 4,
        "lr": 0.01,
        "seed": 3,
        "precision": "float32",
    }
    return SaeConfig(**values | changes)


@pytest.fixture
def embeddings() -> torch.Tensor:
    return torch.randn(50, 6) + 0.5


def test_rows_come_in_a_new_true_shuffle_every_epoch(embeddings: torch.Tensor) -> None:
    rows = as_rows(embeddings)
    run = TrainingRun(rows, _config(lr=1e-4), input_statistics(rows), "cpu")
    epochs: list[torch.Tensor] = []
    for _ in range(2):
        parts = []
        for _ in range(run.per_epoch):
            parts.append(run._batch()[0])
            run.advance()
        epochs.append(torch.cat(parts))
    assert [len(part) for part in parts] == [16, 16, 16, 2]
    for epoch in epochs:
        torch.testing.assert_close(epoch.sort(dim=0).values, embeddings.sort(dim=0).values)
        assert not torch.equal(epoch, embeddings)
    assert not torch.equal(epochs[0], epochs[1])


def test_the_same_recipe_gives_the_same_bits_and_another_seed_does_not(
    embeddings: torch.Tensor,
) -> None:
    first, again, other = (
        train_sae(embeddings, _config(seed=seed)).model.dictionary for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_training_lowers_the_error_and_keeps_unit_rows(embeddings: torch.Tensor) -> None:
    trained = train_sae(embeddings, _config(epochs=60, center=True, scale=True))
    assert trained.history[-1]["reconstruction"] < 0.6 * trained.history[0]["reconstruction"]
    assert trained.metrics.unexplained_variance < 0.5
    assert not trained.model.training
    lengths = trained.model.dictionary.detach().norm(dim=-1)
    np.testing.assert_allclose(lengths.numpy(), 1, rtol=1e-5)


def test_learning_rate_warms_up_and_falls_to_zero(embeddings: torch.Tensor) -> None:
    rows = as_rows(embeddings)
    config = _config(schedule="cosine", warmup=4, lr=0.1)
    run = TrainingRun(rows, config, input_statistics(rows), "cpu")
    rates = []
    for _ in range(run.total):
        run.advance()
        rates.append(run.optimizer.param_groups[0]["lr"])
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[-1] < 0.005


@pytest.mark.parametrize(("epochs", "expected"), [(200, range(9, 189, 10)), (11, []), (21, [9])])
def test_the_paper_resamples_every_ten_epochs_but_not_in_the_last_twenty(
    epochs: int, expected: Any, embeddings: torch.Tensor
) -> None:
    config = preset("dncbm-paper", embed_dim=6, num_rows=50, epochs=epochs)
    rows = as_rows(embeddings)
    run = TrainingRun(rows, config, input_statistics(rows), "cpu")
    with torch.no_grad():
        run.model.encoder_bias[:5] = -100.0  # dead in every window unless resampled
    found = []
    while run.step < run.total:
        run.advance()
        if run.history and run.history[-1]["resampled"] and len(run.history) - 1 not in found:
            found.append(len(run.history) - 1)
            with torch.no_grad():
                run.model.encoder_bias[:5] = -100.0
    assert found == list(expected)


def test_resampling_waits_for_a_whole_window(embeddings: torch.Tensor) -> None:
    config = _config(activation="relu", resample_every=3, epochs=12, lr=1e-4, l1=0.01)
    rows = as_rows(embeddings)
    run = TrainingRun(rows, config, input_statistics(rows), "cpu")
    with torch.no_grad():
        run.model.encoder_bias[4] = -100.0
    while len(run.history) < 3:
        run.advance()
    assert [entry["resampled"] for entry in run.history] == [0, 0, 1]
    assert float(run.model.encoder_bias[4].detach()) == 0.0
    assert run.history[2]["dead_fraction"] == pytest.approx(1 / 12)


def test_bfloat16_products_stay_close_to_float32(
    embeddings: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_module, "native_bfloat16", lambda device: True)
    full, half = (
        train_sae(embeddings, _config(activation="relu", precision=precision))
        for precision in ("float32", "bfloat16")
    )
    assert half.model.dictionary.dtype == torch.float32
    assert not torch.equal(half.model.dictionary, full.model.dictionary)
    assert half.metrics.unexplained_variance == pytest.approx(
        full.metrics.unexplained_variance, rel=0.05
    )


def test_a_processor_without_bfloat16_is_told(
    embeddings: torch.Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision_module, "native_bfloat16", lambda device: False)
    train_sae(embeddings, _config(precision="bfloat16", max_steps=1))
    assert "float32 instead of bfloat16" in caplog.text


def test_resampling_leaves_the_threshold_of_batchtopk_alone(embeddings: torch.Tensor) -> None:
    rows = as_rows(embeddings)
    config = _config(activation="batchtopk", resample_every=1, epochs=8)
    run = TrainingRun(rows, config, input_statistics(rows), "cpu")
    run.fired_in_window.zero_()
    while run.step < run.total:
        run.model.encoder_bias.data[3] = -100.0  # dead, so that every epoch resamples
        run.advance()
    assert sum(entry["resampled"] for entry in run.history) > 0
    assert int(run.model.activation.seen) == run.total


def test_progress_and_step_limit(embeddings: torch.Tensor) -> None:
    seen: list[tuple[str, int, int]] = []
    config = _config(max_steps=6)
    trained = train_sae(embeddings, config, progress=lambda *report: seen.append(report))
    assert seen == [("sae", step, 6) for step in range(1, 7)]
    assert [entry["epoch"] for entry in trained.history] == [0.0, 1.0]


@pytest.mark.parametrize("name", ["dncbm-paper", "topk", "default"])
@pytest.mark.parametrize("kind", ["two rows", "constant", "few"])
def test_small_and_degenerate_data(name: str, kind: str) -> None:
    rows = {"two rows": torch.randn(2, 8), "constant": torch.full((20, 8), 0.3)}.get(
        kind, torch.randn(7, 8)
    )
    config = preset(name, embed_dim=8, num_rows=len(rows), epochs=25)
    trained = train_sae(rows, config)
    assert torch.isfinite(trained.model.dictionary).all()
    assert np.isfinite(trained.metrics.unexplained_variance)
    assert torch.isfinite(trained.model.encode(rows)).all()


def test_wrong_input_is_refused(embeddings: torch.Tensor) -> None:
    with pytest.raises(InvalidInput, match="width 6, the configuration says 7"):
        train_sae(embeddings, _config(embed_dim=7))
    embeddings[11, 2] = torch.nan
    with pytest.raises(InvalidInput, match="row 11"):
        train_sae(embeddings, _config())
    with pytest.raises(InvalidInput, match="at least 2 rows"):
        train_sae(embeddings[:1], _config())


def test_divergence_is_reported_with_a_way_out(embeddings: torch.Tensor) -> None:
    with pytest.raises(InvalidInput, match="diverged in epoch 0.*Lower lr"):
        train_sae(embeddings, _config(activation="relu", lr=1e37))


def test_a_checkpoint_that_cannot_be_written_is_an_error(
    tmp_path: Path, embeddings: torch.Tensor
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="a file stands where a directory is needed"):
        train_sae(embeddings, _config(), checkpoint=tmp_path / "file" / "run.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_concepts": 2}, "k is 3, but there are only 2 concepts"),
        ({"lr": 0.0}, "lr is 0.0; the rule is > 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"l1": -1.0}, "l1 is -1.0; the rule is >= 0"),
        ({"epochs": 0}, "epochs is 0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        _config(**changes)


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(UnknownName, match="Unknown SAE schedule 'cosin'. Nearest.*cosine"):
        _config(schedule="cosin")


def test_a_finished_run_returns_at_once(tmp_path: Path, embeddings: torch.Tensor) -> None:
    path = tmp_path / "run.safetensors"
    first = train_sae(embeddings, _config(), checkpoint=path)
    seen: list[int] = []
    again = train_sae(
        embeddings, _config(), checkpoint=path, progress=lambda _, done, __: seen.append(done)
    )
    assert seen == []
    assert torch.equal(first.model.dictionary, again.model.dictionary)
    assert first.history == again.history


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, embeddings: torch.Tensor) -> None:
    path = tmp_path / "run.safetensors"
    train_sae(embeddings, _config(), checkpoint=path)
    with pytest.raises(ArtifactMismatch, match="another configuration or other embeddings"):
        train_sae(embeddings, _config(lr=0.02), checkpoint=path)
    with pytest.raises(ArtifactMismatch, match="another configuration or other embeddings"):
        train_sae(embeddings + 1, _config(), checkpoint=path)


KILLED_RUN = """
import sys, time
from pathlib import Path
import torch
from dncbm.sae.train import SaeConfig, train_sae
torch.set_num_threads(1)
directory = Path(sys.argv[1])
def slow(stage, done, total):
    time.sleep(0.005)
config = SaeConfig(**eval((directory / "config.txt").read_text()))
embeddings = torch.load(directory / "embeddings.pt", weights_only=True)
train_sae(embeddings, config, checkpoint=directory / "run.safetensors", checkpoint_every=7,
          progress=slow)
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("activation", ["relu", "batchtopk"])
def test_a_killed_run_continues_to_the_same_bits(
    activation: str, tmp_path: Path, embeddings: torch.Tensor, one_thread: None
) -> None:
    config = _config(
        activation=activation,
        l1=0.01,
        resample_every=5 if activation == "relu" else 0,
        aux_weight=0.1,
        dead_after=20,
        aux_k=2,
        epochs=50,
        schedule="cosine",
        warmup=5,
        exchange=(0.1, 0.5, 0.9) if activation == "batchtopk" else (),
    )
    (tmp_path / "config.txt").write_text(repr(config.as_dict()))
    torch.save(embeddings, tmp_path / "embeddings.pt")
    checkpoint = tmp_path / "run.safetensors"
    arguments = [sys.executable, "-c", KILLED_RUN, str(tmp_path)]
    process = subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": os.getcwd()})
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    steps: list[int] = []
    resumed = train_sae(
        embeddings, config, checkpoint=checkpoint, progress=lambda _, done, __: steps.append(done)
    )
    whole = train_sae(embeddings, config)
    assert steps[0] > 1
    assert (steps[0] - 1) % 7 == 0
    assert resumed.history == whole.history
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


class Stopped(BaseException):
    """Like a signal: nothing catches it."""


STOPPED = {
    "jumprelu": {"activation": "jumprelu", "l0": 0.5, "bandwidth": 0.2, "sparsity_warmup": 0.3},
    "gated": {"activation": "gated", "l1": 0.05, "aux_weight": 0.1, "aux_k": 2},
    "concepts": {"activation": "batchtopk", "levels": (0.25, 1.0), "center": True, "scale": True},
    "rank": {"levels": (0.34, 1.0), "levels_by": "rank", "levels_weighting": "reverse"},
    "archetypal": {"archetypes": 9, "relaxation": 0.1},
}


@pytest.mark.parametrize("variant", STOPPED)
def test_every_variant_continues_to_the_same_bits(
    variant: str, tmp_path: Path, embeddings: torch.Tensor, one_thread: None
) -> None:
    config, path = _config(**STOPPED[variant]), tmp_path / "run.safetensors"

    def stop(stage: str, done: int, total: int) -> None:
        if done == 9:
            raise Stopped

    with pytest.raises(Stopped):
        train_sae(embeddings, config, checkpoint=path, checkpoint_every=7, progress=stop)
    steps: list[int] = []
    resumed = train_sae(
        embeddings, config, checkpoint=path, progress=lambda _, done, __: steps.append(done)
    )
    assert steps[0] == 8
    whole = train_sae(embeddings, config)
    assert resumed.history == whole.history
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("variant", "change"),
    [
        ("jumprelu", {"bandwidth": 0.1}),
        ("jumprelu", {"l0": 0.4}),
        ("gated", {"sparsity_warmup": 0.3}),
        ("concepts", {"levels": (0.5, 1.0)}),
        ("concepts", {"levels_weighting": "reverse"}),
        ("archetypal", {"relaxation": 0.2}),
    ],
)
def test_a_checkpoint_of_another_variant_is_refused(
    variant: str, change: dict[str, Any], tmp_path: Path, embeddings: torch.Tensor
) -> None:
    path, settings = tmp_path / "run.safetensors", STOPPED[variant] | {"max_steps": 1}
    train_sae(embeddings, _config(**settings), checkpoint=path)
    with pytest.raises(ArtifactMismatch, match="another configuration"):
        train_sae(embeddings, _config(**settings | change), checkpoint=path)
