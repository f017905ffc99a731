"""axe-core on every view, in light and dark and at the width of a phone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.fake_service import FakeService
from tests.browser.page import Page

Open = Callable[..., Page]
VIEWS = {
    "decide": ("#/decide", ".drop"),
    "decision": ("#/decide", ".drop"),
    "changed": ("#/decide", ".drop"),
    "concepts": ("#/concepts", ".card .thumb"),
    "table": ("#/concepts?as=table", "tbody .thumb"),
    "concept": ("#/concepts/4", ".many .thumb"),
    "draft": ("#/concepts/4", ".many .thumb"),
    "edits": ("#/edits", ".panel"),
    "edit": ("#/edits/1", "tbody"),
    "classes": ("#/classes", ".matrix"),
    "map": ("#/map", ".in-sight a"),
    "jobs": ("#/jobs", "tbody"),
    "job": ("#/jobs/j1", ".stages"),
    "drift": ("#/drift", "tbody"),
    "models": ("#/models", ".tree"),
}


@pytest.fixture(scope="module")
def axe() -> str:
    package = pytest.importorskip("axe_selenium_python", reason="needs axe-selenium-python")
    folder = Path(package.__file__).parent
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


def furnished() -> FakeService:
    """A service with something in every view."""
    fake = FakeService(aliases={"live": {"alias": "live", "model": "second", "author": "Ada"}})
    fake.jobs["j1"] = fake.content.job("j1") | {"name": "one", "pipeline": "run", "config": {}}
    fake.jobs["j1"].update(status="failed", error="The disk is full.")
    fake.edits[1] = {
        "id": 1,
        "parent": None,
        "operations": [{"op": "remove", "concept": 4}],
        "author": "Ada",
        "reason": "wrong",
        "created": "2026-11-29T20:00:00Z",
        "status": "evaluated",
        "evaluation": fake.content.edit_evaluation(),
    }
    return fake


def prepare(page: Page, view: str, photo: Path) -> None:
    """What has to be done to see all of a view."""
    if view in ("decision", "changed"):
        page.upload(photo)
        page.find(".similar figure")
        page.run("document.querySelector('.step button.name').focus()")
        page.find(".heat:not([hidden])")
    if view == "changed":
        page.click(".step.concept button[role=switch]")
        page.find(".moved")
    if view == "draft":
        page.press("Remove from the model")
        page.find(".draft .operations")
    if view == "jobs":
        page.click("summary")


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing(open_page: Open, photo: Path, axe: str, view: str) -> None:
    where, ready = VIEWS[view]
    page = open_page(furnished(), where, ready)
    prepare(page, view, photo)
    page.run(axe)
    for scheme in ("light", "dark"):
        page.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
        found = page.driver.execute_async_script(
            "const done = arguments[0]; axe.run(document).then(found => done(found.violations"
            ".map(one => one.id + ': ' + one.nodes.map(node => node.html + ' '"
            " + node.failureSummary).join(' | '))))"
        )
        assert found == [], scheme


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_scrolls_down_only(open_page: Open, photo: Path, view: str) -> None:
    where, ready = VIEWS[view]
    page = open_page(furnished(), where, ready)
    page.resize(360, 740)
    prepare(page, view, photo)
    assert page.run("return document.documentElement.scrollWidth") <= 360
    outside = page.run(
        "return [...document.querySelectorAll('main *, header *')].filter(one => {"
        "if (one.closest('.scroll, .strip, #places, .unseen, .skip, svg, dialog')) return false;"
        "const box = one.getBoundingClientRect(); return box.width && box.right > 361;"
        "}).map(one => one.outerHTML.slice(0, 120))"
    )
    assert outside == []


def test_everything_can_be_reached_by_keyboard(open_page: Open, photo: Path) -> None:
    page = open_page(furnished())
    prepare(page, "decision", photo)
    page.run("document.activeElement.blur(); document.body.focus()")
    from selenium.webdriver import ActionChains, Keys

    reached: set[str] = set()
    rounds = 0
    for _ in range(200):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        found = page.run(
            "const one = document.activeElement;"
            "const seen = getComputedStyle(one).outlineStyle !== 'none' || one.closest('.drop');"
            "return [one.dataset.control || one.id || one.className || one.tagName, Boolean(seen)]"
        )
        rounds += found[0] == "skip"
        if rounds == 2:  # the first round begins in the middle
            break
        reached.add(found[0])
        assert found[1] or found[0] == "BODY", f"focus of {found[0]} is not seen"
    controls = page.run("return [...document.querySelectorAll('[data-control]:enabled')].length")
    named = [one for one in reached if one.split(" ")[0] in ("name", "slider", "switch")]
    assert len(named) == controls
    assert {"model", "theme", "add-concept", "nec"} <= reached
