"""A run that is killed with SIGKILL in the middle of a stage ends up with the same artifacts."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dncbm.artifacts import load_manifest
from tests.end_to_end.conftest import WORDS, Finished, command, environment

# long enough to be caught in the act, short enough for a test
SLOW = [
    "--workers", "0", "--set", "sae.num_concepts=48", "--set", "sae.epochs=400",
    "--vocabulary", str(WORDS),
]  # fmt: skip


def kill_when(arguments: list[object], seen: Callable[[], bool]) -> None:
    """Start the command and kill it with SIGKILL as soon as `seen` is true."""
    process = subprocess.Popen(
        command(*arguments),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not seen():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the stage ended before it could be killed"


@pytest.fixture(scope="module")
def uninterrupted(
    dncbm: Callable[..., Finished], photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("whole") / "model"
    done = dncbm("quickstart", "--data", photos, "--out", out, "--json", *SLOW)
    assert done.code == 0, done.err
    return out


@pytest.mark.parametrize(
    ("stage", "trace", "result"),
    [
        ("embed", ".embeddings.partial*/shards", "embeddings"),
        ("discover", ".work/discover*", "sae"),
        ("bottleneck", ".work/bottleneck/*", "cbm"),
    ],
)
def test_a_killed_stage_resumes_to_the_same_result(
    dncbm, photos: Path, tmp_path: Path, uninterrupted: Path, stage: str, trace: str, result: str
) -> None:
    out = tmp_path / "model"
    arguments = ["quickstart", "--data", photos, "--out", out, "--json", *SLOW]
    kill_when(arguments, lambda: any(out.glob(trace)))
    assert not (out / result / "manifest.json").exists()
    done = dncbm(*arguments)
    assert done.code == 0, done.err
    for part in ("embeddings", "sae", "dictionary", "cbm"):
        whole, resumed = load_manifest(uninterrupted / part), load_manifest(out / part)
        assert resumed.fingerprint == whole.fingerprint, part
