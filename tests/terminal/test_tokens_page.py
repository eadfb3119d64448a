"""The surprisal page in a real browser: no error, tokens answer, light and dark."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from browsers import BROWSER, DRIVER

from llmcli.tasks.seen_tokens import SeenToken
from llmcli.terminal.tokens_page import TokensPage, about_score

SUMMARY = {
    "model": "tiny <b>&amp;</b>",
    "revision": "0123456789abcdef",
    "precision": "float32",
    "perplexity": 12.345,
    "perplexity_interval": [11.0, 13.5],
    "nll_per_token": math.log(12.345),
    "bits_per_byte": None,
    "tokens": 4,
    "words": 3,
    "bytes": 20,
    "convention": "default",
    "context": 64,
    "stride": 32,
    "bos": True,
}


# The contrast of each span's text with its tint over the page's ground, as WCAG 2 has it.
CONTRAST = """
  const parse = (color) => color.match(/[0-9.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3)
    .map((each) => each / 255)
    .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4))
    .reduce((sum, each, index) => sum + each * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = parse(getComputedStyle(document.body).backgroundColor);
  const dyed = [...document.querySelectorAll(".text span")];
  dyed[1].style.background = "rgb(var(--tint) / 0.85)";
  return dyed.map((span) => {
    const style = getComputedStyle(span);
    const [r, g, b, alpha = 1] = parse(style.backgroundColor);
    const tint = [r, g, b].map((each, index) => alpha * each + (1 - alpha) * ground[index]);
    const [low, high] = [light(tint), light(parse(style.color))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  });
"""


def tokens() -> list[SeenToken]:
    """Words, a script tag, a character over two tokens, a newline, a control character."""
    pieces = [
        b"Once",
        b" </script><script>document.title='broken'</script>",
        b" \xe6",
        b"\x9d\xb1",
        b"\n",
        b"\x1b[31m",
        b" end",
    ]
    found, offset = [], 0
    for index, data in enumerate(pieces):
        found.append(
            SeenToken(
                index=index,
                id=index + 10,
                data=data,
                offset=offset,
                logprob=None if index == 0 else -math.log(2) * 2 * index,
                rank=None if index == 0 else 2,
                entropy=None if index == 0 else 1.5,
                top=()
                if index == 0
                else ((7, b" fox", math.log(0.5)), (index + 10, data, math.log(0.25))),
            )
        )
        offset += len(data)
    return found


def write_page(path: Path, found: list[SeenToken]) -> Path:
    with open(path, "wb") as file:
        page = TokensPage(file.write)
        for token in found:
            page.add(token)
        page.finish(about_score(SUMMARY))
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("page") / "page.html", tokens())


def test_the_page_names_no_other_place(page: Path) -> None:
    text = page.read_text("utf-8")
    places = {word for word in text.replace('"', " ").split() if "://" in word}
    assert places == {"http://www.w3.org/2000/svg"} or not places
    assert "default-src 'none'" in text
    assert text.count("</script>") == 3, "no token ends a script element"


def test_an_empty_text_still_makes_a_page(tmp_path: Path) -> None:
    text = write_page(tmp_path / "empty.html", []).read_text("utf-8")
    data = text.split('id="stretches">', 1)[1].split("</script>", 1)[0]
    assert json.loads(data) == []


@pytest.fixture(scope="module", autouse=True)
def window(request: pytest.FixtureRequest) -> None:
    """The size that these pages are looked at in, where there is a browser."""
    if BROWSER is not None and DRIVER is not None:
        request.getfixturevalue("browser").set_window_size(1000, 900)


def hover(browser: Any, index: int) -> Any:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    span = browser.find_element(By.CSS_SELECTOR, f'.text span[data-index="{index}"]')
    ActionChains(browser).move_to_element(span).perform()
    return browser.find_element(By.ID, "tip")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_chromium(browser: Any, page: Path, scheme: str) -> None:
    from selenium.webdriver.common.by import By

    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page.as_uri())
    assert browser.title == "Surprisal by tiny <b>&amp;</b>"

    spans = browser.find_elements(By.CSS_SELECTOR, ".text span")
    assert [span.get_attribute("textContent") for span in spans] == [
        "Once",
        " </script><script>document.title='broken'</script>",
        " 東",
        "↵\n",
        "\\u001b[31m",
        " end",
    ]
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(252, 252, 250)") is (scheme == "light")
    assert "12.345" in browser.find_element(By.ID, "figures").text

    tip = hover(browser, 1)
    assert tip.is_displayed()
    assert "rank 2" in tip.text
    assert "2.00 bits" in tip.text
    assert "␣fox" in tip.text
    assert "50.0 %" in tip.text
    both = hover(browser, 2).text
    assert "4.00 bits" in both, "a character over two tokens shows both"
    assert "6.00 bits" in both
    assert "not scored" in hover(browser, 0).text

    assert all(ratio >= 4.5 for ratio in browser.execute_script(CONTRAST)), "text on its tint"
    shades = [
        browser.execute_script("return getComputedStyle(arguments[0]).backgroundColor", span)
        for span in (spans[1], spans[5])
    ]
    assert shades[0] != shades[1], "the more surprising, the stronger"
    log = [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"]
    assert log == []


def test_keys_and_chart(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    text = browser.find_element(By.CSS_SELECTOR, ".text")
    text.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert "2.00 bits" in browser.find_element(By.ID, "tip").text
    text.send_keys(Keys.ESCAPE)
    assert not browser.find_element(By.ID, "tip").is_displayed()
    chart = browser.find_element(By.ID, "chart")
    assert len(chart.find_elements(By.CSS_SELECTOR, "path")) == 1, "a line; few tokens, no peaks"
    ticks = [tick.text for tick in chart.find_elements(By.CSS_SELECTOR, ".tick")]
    assert ticks[:4] == ["0", "5", "10", "0"], "bits, then tokens"
    chart.click()
    assert browser.find_element(By.ID, "tip").is_displayed()


def test_screenshots(browser: Any, page: Path, tmp_path: Path) -> None:
    """Kept where KEEP_SCREENSHOTS names a folder, to be looked at."""
    folder = Path(os.environ.get("KEEP_SCREENSHOTS") or tmp_path)
    sizes = set()
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get(Path(os.environ.get("KEEP_PAGE") or page).as_uri())
        hover(browser, 1)
        target = folder / f"surprisal-{scheme}.png"
        assert browser.save_screenshot(str(target))
        sizes.add(target.read_bytes())
    assert len(sizes) == 2, "light and dark differ"
