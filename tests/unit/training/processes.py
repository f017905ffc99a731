"""Tests of several processes: a fresh interpreter forks them, so that torch is loaded once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

LAUNCH = """
import sys
from pathlib import Path
from {module} import launch
launch(Path(sys.argv[1]))
"""


def launched(module: str, folder: Path) -> Path:
    """Call `launch(folder)` of a test module in a process of its own; skips where it cannot."""
    if not dist.is_available() or not dist.is_gloo_available() or sys.platform != "linux":
        pytest.skip("needs torch.distributed with gloo, and processes that fork")
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root, "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", LAUNCH.format(module=module), str(folder)]
    done = subprocess.run(
        command, env=environment, cwd=root, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder
