"""How soon the page can be used, in Debian's Chromium on this machine.

    python -m benchmarks.serving.page --concepts 8192

Serves a random model with that many concepts as `dncbm serve` would, opens its views in a fresh
browser and takes the time from the navigation until what the view is for can be used: the
drop area, the first concepts, the classes, the points of the map. With `cold` the browser's cache
is empty. `--model DIR` opens that one.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks._harness import Row, finish, parser
from benchmarks.serving._client import Served
from benchmarks.serving._model import write_random_model

_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
          "--disable-background-networking", "--window-size=1280,900")  # fmt: skip
_VIEWS = {
    "Decide": ("#/decide", "main .drop input"),
    "Concepts": ("#/concepts", "main .concept-list > *"),
    "Classes": ("#/classes", "main section.panel h2"),
    "Map": ("#/map", "main canvas"),
}
"""Address of a view, and what is there when it can be used."""
_LIMIT = 30.0


def main() -> None:
    """Run it."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or write_random_model(
            Path(folder) / "random", "mini", options.concepts
        )
        with Served(model, device="cpu") as served, _browser() as driver:
            rows = _rows(driver, f"http://127.0.0.1:{served.port}/", options.turns)
    slowest = max(float(row["cold_s"]) for row in rows)
    finish("page", rows, {"slowest view / 1 s": slowest}, options)


def _options() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, help="model directory; default: a random one")
    options.add_argument("--concepts", type=int, default=8192)
    options.add_argument("--turns", type=int, default=5)
    return options.parse_args()


@contextmanager
def _browser() -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise SystemExit("Needs chromium and chromedriver (Debian: chromium-driver).")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in _FLAGS:
        options.add_argument(flag)
    made = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield made
    finally:
        made.quit()


def _rows(driver: Any, base: str, turns: int) -> list[Row]:
    rows = []
    for view, (where, ready) in _VIEWS.items():
        cold = [_seconds(driver, base + where, ready, is_cold=True) for _ in range(turns)]
        warm = [_seconds(driver, base + where, ready, is_cold=False) for _ in range(turns)]
        rows.append(
            {"view": view, "cold_s": statistics.median(cold), "warm_s": statistics.median(warm)}
            | {"worst_s": max(cold + warm)}
        )
    return rows


def _seconds(driver: Any, address: str, ready: str, *, is_cold: bool) -> float:
    """From the navigation until an element of the view is drawn."""
    driver.get("about:blank")
    if is_cold:
        driver.execute_cdp_cmd("Network.clearBrowserCache", {})
    start = time.perf_counter()
    driver.get(address)
    while time.perf_counter() - start < _LIMIT:
        if driver.execute_script(_IS_DRAWN, ready):
            return time.perf_counter() - start
        time.sleep(0.005)
    raise SystemExit(f"{address} showed nothing of {ready!r} within {_LIMIT:g} s.")


_IS_DRAWN = """
const found = document.querySelector(arguments[0]);
return found !== null && document.querySelector('main [aria-busy=true]') === null;
"""


if __name__ == "__main__":
    main()
