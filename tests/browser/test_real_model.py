"""The page on a real, tiny model, composed as in production."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.asgi import application
from tests.api.fakes import HOSTILE
from tests.api.fakes import photo as noise
from tests.api.real import write_browsable
from tests.browser.page import Page


def test_a_photo_is_decided_and_explained(
    browser: Any,
    serve: Callable[[Any], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_browsable(tmp_path / "clothing")
    monkeypatch.setenv("DNCBM_MODEL_DIR", str(tmp_path / "clothing"))
    monkeypatch.setenv("DNCBM_DEVICE", "cpu")
    page = Page(browser, serve(application()))
    page.open()
    file = tmp_path / "photo.png"
    file.write_bytes(noise(3))
    page.upload(file)
    page.find(".step.logit")
    page.run("document.querySelector('.step button.name').focus()")
    page.find(".heat:not([hidden])")
    page.open("#/concepts")
    page.sees(HOSTILE, ".cards")
    page.open("#/concepts/0")
    page.sees("red", "h1")
    page.open("#/classes")
    page.sees("looks for")
    page.sees("Accuracy by concepts per class")
    page.open("#/models")
    page.sees("clothing", "tbody")
    page.leave()
    assert page.complaints() == []
