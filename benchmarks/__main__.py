"""`python -m benchmarks [NAME ...]` runs the benchmarks one after the other; all by default.

Prints each one's table and, last, the ratios of all; JSON and PNG of each are in
`benchmark-results/`. `make benchmarks` installs the peers before.
"""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks._harness import OUT, Row, table

HERE = Path(__file__).parent


def main() -> int:
    """Run each in a process of its own, so that one never warms up another."""
    known = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
    chosen = sys.argv[1:] or known
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        print(f"Unknown benchmarks {', '.join(unknown)}. Known: {', '.join(known)}.")
        return 2
    failed = []
    for name in chosen:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    print(table([row for name in chosen for row in ratios(name)]))
    if failed:
        print(f"Failed: {', '.join(failed)}.")
    return int(bool(failed))


def ratios(name: str) -> list[Row]:
    """What the benchmark's last run wrote, one row per ratio."""
    path = OUT / f"{name}.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text())["ratios"]
    return [
        {"benchmark": name, "ratio": key, "value": "peer missing" if value is None else value}
        for key, value in found.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
