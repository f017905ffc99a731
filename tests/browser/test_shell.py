from collections.abc import Callable
from pathlib import Path

from tests.browser.fake_service import FakeService
from tests.browser.page import Page

Open = Callable[..., Page]


def test_models_and_aliases_are_switched(open_page: Open) -> None:
    fake = FakeService(aliases={"live": {"alias": "live", "model": "second", "author": "Ada"}})
    page = open_page(fake)
    page.choose("#model", "live")
    page.until(lambda: "model=live" in page.address, "not switched")
    page.press("Concepts", "header")
    page.sees("40 concepts")
    assert "model=live" in page.address
    page.reload()
    assert page.find("#model").get_attribute("value") == "live"
    page.run("location.hash = '#/decide?model=nobody'")
    page.sees("No model or alias is called “nobody”")


def test_an_alias_is_set_and_removed(open_page: Open) -> None:
    fake = FakeService()
    page = open_page(fake, "#/models")
    page.labelled("Alias").send_keys("champion")
    page.labelled("Author").send_keys("Ada")
    page.labelled("Reason").send_keys("best so far")
    page.press("Set")
    page.until(lambda: "champion" in page.text(".plain"), "not set")
    wanted = {"model": "clothing", "author": "Ada", "reason": "best so far"}
    assert fake.aliases["champion"] == {"alias": "champion"} | wanted
    assert "champion" in page.text("#model")
    page.press("Remove")
    page.until(lambda: "champion" not in fake.aliases, "not removed")
    page.sees("aaaaaaaaaaaa", ".tree")
    page.sees("bbbbbbbbbbbb", ".tree ul")


def test_a_key_is_asked_for_and_kept_for_the_tab(open_page: Open, photo: Path) -> None:
    page = open_page(FakeService(key="secret"), ready="dialog input")
    page.expected = ("401",)
    page.type("dialog input", "wrong\n")
    page.sees("did not accept", "dialog")
    page.type("dialog input", "secret\n")
    page.find("main h1")
    page.upload(photo)
    page.find(".step.logit")
    page.run("document.querySelector('.step button.name').focus()")
    page.find(".of-concept img.thumb[src^='blob:']")
    page.reload()  # no second question
    assert not page.all("dialog")
    page.run("sessionStorage.clear()")


def test_cancelling_the_key_says_what_is_missing(open_page: Open) -> None:
    page = open_page(FakeService(key="secret"), ready="dialog input")
    page.expected = ("401",)
    page.press("Cancel", "dialog")
    page.sees("asks for an API key")


def test_colours_follow_the_system_and_the_button(open_page: Open) -> None:
    page = open_page(FakeService())

    def paper() -> str:
        return str(page.run("return getComputedStyle(document.body).backgroundColor"))

    light = paper()
    page.prefer(prefers_color_scheme="dark")
    dark = paper()
    assert light != dark
    page.click("#theme")
    assert paper() == light
    page.reload()
    assert paper() == light
    page.click("#theme")
    page.prefer(prefers_color_scheme="light")
    assert paper() == dark
    page.click("#theme")
    assert paper() == light
    page.run("localStorage.clear()")


def test_back_and_reload_keep_the_view(open_page: Open) -> None:
    page = open_page(FakeService())
    for name, title in (("Concepts", "Concepts"), ("Jobs", "Jobs"), ("Drift", "Drift")):
        page.press(name, "header")
        page.sees(title, "h1")
    focused = "return document.activeElement.tagName"
    page.until(lambda: page.run(focused) == "H1", "the title has no focus")
    assert page.driver.title == "Drift · dncbm"
    page.driver.back()
    page.sees("Jobs", "h1")
    page.reload()
    page.sees("Jobs", "h1")
    assert page.find("#places [aria-current]").text == "Jobs"
    page.open("#/nowhere")
    page.sees("Nothing here")


def test_the_skip_link_moves_to_the_content(open_page: Open) -> None:
    page = open_page(FakeService(), "#/jobs")
    page.run("document.querySelector('.skip').click()")
    assert page.run("return document.activeElement.id") == "view"
    assert page.address == "#/jobs"


def test_no_model(open_page: Open) -> None:
    page = open_page(FakeService(models=()))
    page.sees("No model is loaded.")
    page.press("Jobs", "header")
    page.sees("No job.")


def test_no_motion_where_none_is_wanted(open_page: Open, photo: Path) -> None:
    page = open_page(FakeService())
    page.upload(photo)
    page.find(".bar")
    look = "return getComputedStyle(document.querySelector('.bar')).transitionDuration"
    page.prefer(prefers_reduced_motion="no-preference")
    assert page.run(look) != "0s"
    page.prefer(prefers_reduced_motion="reduce")
    assert page.run(look) == "0s"
