"""What tests do with the page: look, click, type, wait."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT = 20  # seconds for anything to appear; far more than it takes


class Page:
    """One address in the browser, with a state of its own."""

    def __init__(self, driver: Any, base: str) -> None:
        self.driver = driver
        self.base = base
        self.expected: tuple[str, ...] = ()
        driver.get_log("browser")  # what earlier pages left

    def open(self, where: str = "", ready: str = "main h1") -> None:
        """Show a view, with `where` as in `#/concepts`, and wait until `ready` is drawn."""
        self.driver.get(self.base + "/" + where)
        self.find(ready)

    def reload(self) -> None:
        self.driver.refresh()
        self.find("main h1")

    def leave(self) -> None:
        """End the page's requests before its service ends."""
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        log = self.driver.get_log("browser")
        self._log = [item for item in log if item["level"] in ("SEVERE", "WARNING")]
        self.driver.get("about:blank")

    def complaints(self) -> list[str]:
        """Errors and warnings in the console, without those that the test expects."""
        messages = [item["message"] for item in self._log]
        return [one for one in messages if not any(word in one for word in self.expected)]

    def until(self, question: Any, what: str) -> Any:
        """The first answer that is true; fails with `what` after a while."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(
            self.driver, LIMIT, 0.05, ignored_exceptions=[StaleElementReferenceException]
        )
        return wait.until(lambda _: question(), what)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def find(self, selector: str) -> Any:
        """The first element that fits, once there is one."""
        return self.until(lambda: (self.all(selector) or [None])[0], f"nothing fits {selector}")

    def text(self, selector: str = "main") -> str:
        return str(self.find(selector).text)

    def sees(self, words: str, selector: str = "main") -> None:
        """Wait until `words` are shown."""
        self.until(lambda: words in self.text(selector), f"{words!r} not in {selector}")

    def click(self, selector: str) -> None:
        self._click(lambda: self.find(selector))

    def press(self, words: str, within: str = "main") -> None:
        """Click the button or link with these words."""
        path = f"//{within}//*[self::button or self::a][normalize-space()={words!r}]"
        self._click(
            lambda: self.until(
                lambda: (self.driver.find_elements("xpath", path) or [None])[0],
                f"no button {words}",
            )
        )

    def _click(self, find: Callable[[], Any], tries: int = 5) -> None:
        """Click what `find` gives; live views may draw it anew between finding and clicking."""
        from selenium.common.exceptions import StaleElementReferenceException

        for turn in range(tries):
            try:
                element = find()
                self.run("arguments[0].scrollIntoView({block: 'center'})", element)
                element.click()
            except StaleElementReferenceException:
                if turn == tries - 1:
                    raise
            else:
                return

    def type(self, selector: str, words: str) -> None:
        field = self.find(selector)
        field.clear()
        field.send_keys(words)

    def choose(self, selector: str, value: str) -> None:
        from selenium.webdriver.support.ui import Select

        Select(self.find(selector)).select_by_value(value)

    def labelled(self, words: str) -> Any:
        """The control inside the label that begins with these words."""
        control = "*[self::input or self::select or self::textarea]"
        path = f"//main//label[span[normalize-space()={words!r}]]//{control}"
        return self.until(
            lambda: (self.driver.find_elements("xpath", path) or [None])[0], f"no field {words}"
        )

    def upload(self, *photos: Path, selector: str = ".drop input") -> None:
        self.find(selector).send_keys("\n".join(map(str, photos)))

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    @property
    def address(self) -> str:
        """The part of the address that keeps the state."""
        return str(self.run("return location.hash"))

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, **features: str) -> None:
        """Emulate media features, with `_` for `-`: `prefers_color_scheme="dark"`."""
        listed = [
            {"name": name.replace("_", "-"), "value": value} for name, value in features.items()
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": listed})
