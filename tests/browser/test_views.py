from collections.abc import Callable

from tests.browser.fake_content import CLASSES, HOSTILE, Content
from tests.browser.fake_service import FakeService
from tests.browser.page import Page

Open = Callable[..., Page]


def test_weights_of_a_class(open_page: Open) -> None:
    page = open_page(FakeService(), "#/classes")
    page.sees("What Dress looks for")
    listed = Content().weights_of("Dress")
    assert len(page.all(".weights li")) >= 30
    page.press("Weaker")
    page.sees("31 to 40 of 40 concepts")
    assert listed[30]["name"] in page.text(".weights")
    page.choose("#class", CLASSES[2])
    page.sees(f"What {CLASSES[2]} looks for")
    page.reload()
    page.sees(f"What {CLASSES[2]} looks for")


def test_accuracy_calibration_and_confusion(open_page: Open) -> None:
    page = open_page(FakeService(), "#/classes")
    page.sees("Measured on test, 104 images")
    labels = [one.get_attribute("aria-label") for one in page.all("svg.chart")]
    assert labels[0] == "Accuracy: 5: 70.0 %, 10: 75.0 %"
    assert labels[1].startswith("Calibration")
    assert len(page.all("circle.soft")) == 4
    page.sees("31.0 %")
    assert [one.text for one in page.all(".matrix td.right")] == ["22"] * 4
    assert len(page.all(".matrix td.wrong button")) == 11  # one pair is never confused
    assert "Dress taken for Shoes: 2 images" in page.text(".confused-by")
    page.click(".matrix tbody tr:nth-child(2) td.wrong button")
    page.sees("Shoes taken for Dress", ".confused-by")
    page.sees("was not kept")


def test_without_an_evaluation_the_recipe_tells_the_accuracy(open_page: Open) -> None:
    page = open_page(FakeService(without=frozenset({"evaluation"})), "#/classes")
    page.sees("Accuracy by concepts per class")
    assert len(page.all("circle.dot")) == 2
    assert not page.all(".matrix")


def test_the_map_is_listed_zoomed_and_opened(open_page: Open) -> None:
    page = open_page(FakeService(), "#/map")
    page.sees("40 concepts in sight")
    canvas = page.find("canvas")
    for _ in range(5):
        canvas.send_keys("+")
    page.until(lambda: "40 concepts" not in page.text(".beside"), "not zoomed")
    canvas.send_keys("0")
    page.sees("40 concepts in sight")
    page.labelled("Word").send_keys("sneaker")
    page.sees("1 concept in sight")
    page.run("document.querySelector('.in-sight a').focus()")
    page.sees("sneaker", ".map-card")
    page.until(lambda: page.all(".map-card .thumb"), "no images")
    page.click(".in-sight a")
    page.sees("sneaker", "h1")


def test_a_better_map_is_offered_once_it_is_there(open_page: Open) -> None:
    fake = FakeService()
    fake.content.is_laid_out = False
    page = open_page(fake, "#/map")
    page.sees("40 concepts in sight")
    page.sees("Better ones are being computed")
    page.labelled("Word").send_keys("sneaker")
    page.sees("1 concept in sight")
    fake.content.is_laid_out = True
    page.sees("A better map is ready.")
    page.sees("1 concept in sight")
    page.press("Show it")
    page.sees("placed by pca+tsne")
    page.sees("1 concept in sight")
    assert page.labelled("Word").get_attribute("value") == "sneaker"
    assert "better map" not in page.text("main")


def test_pointing_into_the_map(open_page: Open) -> None:
    page = open_page(FakeService(), "#/map")
    page.sees("40 concepts in sight")
    plane = Content().plane()
    shares = []
    for axis in ("x", "y"):
        low, high = min(plane[axis]), max(plane[axis])
        shares.append(0.04 + 0.92 * (plane[axis][7] - low) / (high - low))
    script = """
      const canvas = document.querySelector('canvas');
      const box = canvas.getBoundingClientRect();
      const side = Math.min(canvas.clientWidth, canvas.clientHeight);
      const left = canvas.clientWidth / 2 + (arguments[0] - 0.5) * side;
      const top = canvas.clientHeight / 2 + (0.5 - arguments[1]) * side;
      canvas.dispatchEvent(new PointerEvent('pointermove', {
        clientX: box.left + canvas.clientLeft + left, clientY: box.top + canvas.clientTop + top}));
    """
    page.run(script, *shares)
    page.sees("denim", ".map-card")


def test_the_map_is_drawn_in_the_colours_of_the_page(open_page: Open) -> None:
    page = open_page(FakeService(), "#/map")
    page.expected = ("willReadFrequently",)  # advice to this test, not to the page
    page.sees("40 concepts in sight")
    brightest = """
      const canvas = document.querySelector('canvas');
      const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      let most = 0;
      for (let k = 0; k < data.length; k += 4) {
        if (data[k + 3] > 200) most = Math.max(most, data[k]);
      }
      return most;
    """
    assert page.run(brightest) < 120
    page.prefer(prefers_color_scheme="dark")
    page.until(lambda: page.run(brightest) > 180, "not drawn anew")


def test_without_a_map(open_page: Open) -> None:
    page = open_page(FakeService(without=frozenset({"map"})), "#/map")
    page.sees("This service has no map of the dictionary.")


def test_a_job_from_form_to_end(open_page: Open) -> None:
    fake = FakeService()
    page = open_page(fake, "#/jobs")
    page.sees("No job.")
    page.click("summary")
    page.labelled("Name").send_keys("trial")
    page.labelled("Photos").send_keys("/data/photos")
    page.labelled("Concepts").send_keys("512")
    more = page.labelled("More of the configuration, as JSON")
    more.send_keys("{")
    page.press("Submit")
    page.sees("The configuration is not JSON")
    more.clear()
    more.send_keys('{"seed": 7}')
    page.press("Submit")
    page.sees("trial", "h1")
    job = fake.jobs["j1"]
    config = {"seed": 7, "data": "/data/photos", "sae": {"num_concepts": 512}}
    assert (job["pipeline"], job["config"], job["priority"]) == ("discover", config, 0)
    page.sees("40 of 100, 12.5 per s, 2 min left")
    page.sees(HOSTILE, ".log")
    meter = page.find(".stages [role=progressbar]")
    assert meter.get_attribute("aria-valuenow") == "40"
    page.press("Cancel")
    page.sees("cancelled", ".badge")
    page.press("Retry")
    page.sees("succeeded", ".badge")
    page.press("All jobs")
    page.sees("trial", "tbody")


def test_a_job_follows_its_events_to_the_end(open_page: Open) -> None:
    fake = FakeService()
    fake.jobs["j1"] = fake.content.job("j1") | {"name": "live", "pipeline": "run", "config": {}}
    page = open_page(fake, "#/jobs/j1")
    page.sees("running", ".badge")
    fake.jobs["j1"].update(status="failed", error="The disk is full.")
    page.sees("failed", ".badge")
    page.sees("The disk is full.")


def test_without_jobs(open_page: Open) -> None:
    page = open_page(FakeService(without=frozenset({"jobs"})), "#/jobs")
    page.sees("This service runs no jobs.")


def test_drift_is_listed_and_started_anew(open_page: Open) -> None:
    fake = FakeService()
    page = open_page(fake, "#/drift")
    page.sees("120 images since 2026-11-01")
    assert len(page.all("tbody tr")) == 4
    assert "+0.30" in page.text("tbody tr")
    page.press("Start anew")
    page.until(lambda: ("drift", "anew") in fake.sent, "not started anew")


def test_drift_that_is_off_or_not_there(open_page: Open) -> None:
    page = open_page(FakeService(drift_enabled=False), "#/drift")
    page.sees("Drift is not watched for this model.")
    page = open_page(FakeService(without=frozenset({"drift"})), "#/drift")
    page.sees("This service does not watch for drift.")
