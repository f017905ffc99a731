from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.browser.fake_content import CLASSES, HOSTILE, Content, picture
from tests.browser.fake_service import FakeService
from tests.browser.page import Page

Open = Callable[..., Page]


def signed(text: str) -> float:
    return float(text.split()[-1].replace("−", "-"))


def decided(open_page: Open, photo: Path, fake: FakeService, where: str = "") -> Page:
    page = open_page(fake, where)
    page.upload(photo)
    page.find(".step.logit")
    return page


def best() -> dict[str, Any]:
    return Content().decide({}, 200)


def test_the_waterfall_sums_to_the_logit(open_page: Open, photo: Path) -> None:
    page = decided(open_page, photo, FakeService())
    values = [signed(one.text) for one in page.all(".step .number:not(output)")]
    assert len(values) == 8 + 3  # concepts, bias, remainder, sum
    assert abs(sum(values[:-1]) - values[-1]) < 0.06  # each is rounded to two digits
    assert abs(values[-1] - best()["logit"]) < 0.006
    edges = page.run(
        "return [...document.querySelectorAll('.step')].map(step => {"
        "const bar = step.querySelector('.bar').getBoundingClientRect();"
        "return [bar.left, bar.right]})"
    )
    for before, after in zip(edges[:-2], edges[1:-1], strict=True):  # each begins where one ended
        assert min(abs(a - b) for a in before for b in after) < 2
    assert HOSTILE in page.text(".waterfall")


def test_every_class_can_be_explained_and_the_address_keeps_it(
    open_page: Open, photo: Path
) -> None:
    page = decided(open_page, photo, FakeService())
    assert len(page.all(".class")) == len(CLASSES)
    other = best()["alternatives"][0]["class"]
    page.click(f".class input[value='{other}']")
    page.sees(f"Why {other}")
    assert "class=" in page.address
    page.find(f".class input[value='{other}']").send_keys("\ue013")  # arrow up
    page.sees(f"Why {best()['class']}")


def test_a_switch_removes_a_concept_and_the_decision_stands_beside(
    open_page: Open, photo: Path
) -> None:
    fake = FakeService()
    page = decided(open_page, photo, fake)
    before = page.text(".step.logit .number")
    page.click(".step.concept button[role=switch]")
    page.find(".step.logit.moved")
    first = best()["contributions"][0]
    assert fake.sent[-1] == ("intervene", [{"concept": first["concept"], "remove": True}])
    after = Content().intervene([{"concept": first["concept"], "remove": True}])["after"]
    scores = {one["class"]: one["logit"] for one in [after, *after["alternatives"]]}
    shown = page.text(".step.logit .number")
    assert shown.startswith(before)
    assert abs(signed(shown) - scores[best()["class"]]) < 0.006
    assert "Logit of" in page.text(".reasons")
    assert page.all(".class .bar.before")
    page.press("Reset")
    page.until(lambda: page.text(".step.logit .number") == before, "not reset")
    assert not page.all(".moved")


def test_several_concepts_of_one_name_change_together(open_page: Open, photo: Path) -> None:
    fake = FakeService(grouped=True)
    page = decided(open_page, photo, fake)
    assert "re 2 concepts" in page.text(".step.concept")
    page.click(".step.concept button[role=switch]")
    page.find(".step.logit.moved")
    removed = [{"concept": concept, "remove": True} for concept in (0, 6)]
    assert fake.sent[-1] == ("intervene", removed)
    assert signed(page.text(".step.concept .number")) == 0
    page.click(".undo:not(:disabled)")
    page.until(lambda: not page.all(".moved"), "not undone")
    page.find(".step.concept input[type=range]").send_keys("\ue011")  # home
    page.find(".step.logit.moved")
    scaled = [{"concept": concept, "scale": 0} for concept in (0, 6)]
    assert fake.sent[-1] == ("intervene", scaled)


def test_a_slider_sets_a_code_by_keyboard(open_page: Open, photo: Path) -> None:
    fake = FakeService()
    page = decided(open_page, photo, fake)
    page.find(".step.concept input[type=range]").send_keys("\ue011")  # home
    page.find(".step.logit.moved")
    first = best()["contributions"][0]["concept"]
    assert fake.sent[-1] == ("intervene", [{"concept": first, "set": 0}])
    focused = page.run("return document.activeElement.dataset.control")
    assert focused == f"slider concept {first}"  # drawing anew keeps the place
    page.click(".undo:not(:disabled)")
    page.until(lambda: not page.all(".moved"), "not undone")


def test_a_concept_is_added(open_page: Open, photo: Path) -> None:
    fake = FakeService()
    page = decided(open_page, photo, fake)
    page.type("#add-concept", "button\n")
    page.until(lambda: "button" in page.text(".waterfall"), "not added")
    assert fake.sent[-1] == ("intervene", [{"concept": 8, "set": 1.5}])
    page.type("#add-concept", "no such thing\n")
    page.sees("No concept is called")


def test_pointing_at_a_concept_shows_where_it_is(open_page: Open, photo: Path) -> None:
    fake = FakeService()
    page = decided(open_page, photo, fake)
    seen = []
    for button in page.all(".step button.name"):
        page.run("arguments[0].focus()", button)
        concept = int(str(button.get_attribute("data-control")).split()[-1])
        words = "Exact:" if concept % 2 == 0 else "Post hoc (grad_cam)"
        page.sees(words, "figcaption")
        seen.append(concept)
        if {one % 2 for one in seen} == {0, 1}:
            break
    assert page.find(".heat").get_attribute("src").startswith("data:image/png")
    assert page.all(".of-concept .thumb")
    asked = [one for kind, one in fake.sent if kind == "explain"]
    assert asked == seen


def test_similar_images_name_what_they_share(open_page: Open, photo: Path) -> None:
    page = decided(open_page, photo, FakeService())
    page.until(lambda: len(page.all(".similar figure")) == 5, "no similar images")
    assert HOSTILE in page.text(".similar")
    assert page.find(".similar a").get_attribute("href").endswith("#/concepts/1")


def test_several_photos_stand_in_a_strip(open_page: Open, photo: Path, tmp_path: Path) -> None:
    other, broken = tmp_path / "other.png", tmp_path / "bad.png"
    other.write_bytes(picture(6))
    broken.write_bytes(b"broken")
    page = open_page(FakeService(busy=1))
    page.expected = ("503", "422", "ERR_FILE_NOT_FOUND")
    page.upload(photo, other, broken)
    page.until(lambda: "not read" in page.text(".strip"), "no error")
    page.until(lambda: "…" not in page.text(".strip"), "not all answered")
    page.click(".tile-place:nth-child(3) .tile")
    page.sees("it is truncated")
    page.click(".tile-place:nth-child(2) .tile")
    page.sees("other.png", ".photo")
    page.click(".tile-place:nth-child(3) .corner")
    page.until(lambda: len(page.all(".tile")) == 2, "not removed")


def test_photos_are_pasted_and_dropped(open_page: Open) -> None:
    page = open_page(FakeService())
    make = (
        "const data = new DataTransfer();"
        "data.items.add(new File(['x'], 'new.png', {type: 'image/png'}));"
    )
    page.run(make + "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data}))")
    page.until(lambda: len(page.all(".tile")) == 1, "not pasted")
    page.run(make + "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: data}))")
    page.until(lambda: len(page.all(".tile")) == 2, "not dropped")


def test_the_dial_is_in_the_address_and_asks_anew(open_page: Open, photo: Path) -> None:
    fake = FakeService()
    page = decided(open_page, photo, fake, "#/decide?nec=5")
    page.choose("#nec", "10")
    page.until(lambda: fake.sent[-1][1]["nec"] == 10, "not asked")
    assert [one["nec"] for _, one in fake.sent] == [5, 10]
    assert "nec=10" in page.address
    page.find(".step.logit")
    page.driver.back()
    page.until(lambda: fake.sent[-1][1]["nec"] == 5, "not asked again")
    page.press("Classes", "header")
    page.sees("What Dress looks for")
    assert "nec=5" in page.address
    page.driver.back()
    page.find(".step.logit")  # the photo is still there


def test_without_the_optional_routes_it_still_decides(open_page: Open, photo: Path) -> None:
    fake = FakeService(without=frozenset({"intervene", "explain", "similar"}))
    page = decided(open_page, photo, fake)
    assert "cannot change concepts" in page.text()
    assert not page.all(".controls")
    assert not page.all(".similar")
    page.run("document.querySelector('.step button.name').focus()")
    page.sees("makes no maps")
