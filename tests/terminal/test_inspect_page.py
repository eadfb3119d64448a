"""The page of inspect in a real browser: heads, tokens, lens, influences, light and dark."""

from __future__ import annotations

import base64
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import BROWSER, DRIVER

from llmcli.tasks.inspect.attention import Attention, HeadMap, HeadSummary
from llmcli.tasks.inspect.attribution import Attribution
from llmcli.tasks.inspect.heads import Change, HeadsOff
from llmcli.tasks.inspect.lens import Lens, LensCell
from llmcli.tasks.inspect.request import Inspection, Overview
from llmcli.terminal.inspect_page import packed, write_inspect_page

WORDS = {
    0: b"Once",
    1: b" </script><script>document.title='broken'</script>",
    2: b"\x1b[31m",
    3: b" end",
    4: b" fox",
    5: b"\xff",
}
PROVENANCE = {"model": "tiny <b>&amp;</b>", "revision": "0123456789abcdef", "precision": "float32"}


def _matrix(layer: int, head: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    weights = np.tril(np.random.default_rng(layer * 7 + head).random((4, 4))).astype(np.float32)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


MAPS = {(layer, head): _matrix(layer, head) for layer in range(3) for head in range(2)}


def seen() -> Inspection:
    heads = tuple(
        HeadSummary(layer=layer, head=head, entropy=1.25, previous=0.5, first=0.25)
        for layer, head in MAPS
    )
    rows = tuple(
        tuple(
            LensCell(
                top=((3 if layer == 3 else position, math.log(0.5)), (4, math.log(0.25))),
                kl=3.0 - layer,
                rank=4 - layer,
                agrees=layer == 3,
            )
            for position in range(4)
        )
        for layer in range(4)
    )
    return Inspection(
        tokens=(0, 1, 2, 3),
        n_layers=3,
        n_heads=2,
        window=(0, 4),
        overview=Overview(
            n_layers=3,
            n_heads=2,
            prediction=(4, math.log(0.375)),
            settled=2,
            previous=heads[3:4],
            first=heads[:1],
            spread=heads[1:2],
        ),
        attention=Attention(
            start=0,
            end=4,
            heads=heads,
            maps=tuple(HeadMap(layer=at[0], head=at[1], weights=w) for at, w in MAPS.items()),
        ),
        lens=Lens(start=0, layers=rows),
        attribution=Attribution(
            target=4,
            contrast=3,
            value=1.5,
            leave_one_out=(0.5, -0.25, 0.0, 2.0),
            input_x_gradient=(-1.0, 0.0, 0.0, 0.5),
            integrated_gradients=(0.125, 0.0, 0.0, 0.25),
            baseline=5,
            baseline_value=-3.0,
            completeness_error=0.0025,
            steps=64,
        ),
        heads_off=HeadsOff(
            heads=((1, 1),),
            candidates=(Change(id=4, logprob=math.log(0.5), without=math.log(0.25)),),
            kl=0.125,
            nll=2.0,
            nll_without=2.5,
        ),
    )


def write_page(path: Path, inspection: Inspection) -> Path:
    with path.open("wb") as file:
        write_inspect_page(file.write, inspection, WORDS.__getitem__, PROVENANCE)
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("page") / "page.html", seen())


def test_matrices_are_packed_to_16_bits() -> None:
    for weights in MAPS.values():
        data = np.frombuffer(base64.b64decode(packed(weights)), "<u2")
        unpacked = np.zeros((4, 4))
        unpacked[np.tril_indices(4)] = data / 65535
        np.testing.assert_allclose(unpacked, weights, atol=0.5 / 65535 + 1e-7)


def test_the_page_names_no_other_place(page: Path) -> None:
    text = page.read_text("utf-8")
    places = {word for word in text.replace('"', " ").split() if "://" in word}
    assert places == {"http://www.w3.org/2000/svg"}, "a namespace, which nothing asks for"
    assert "default-src 'none'" in text
    assert text.count("</script>") == 3, "no token ends a script element"


def test_a_view_that_was_not_asked_for_is_not_there(tmp_path: Path) -> None:
    whole = seen()
    bare = Inspection(tokens=whole.tokens, n_layers=3, n_heads=2, window=(0, 4), lens=whole.lens)
    text = write_page(tmp_path / "bare.html", bare).read_text("utf-8")
    assert json.loads(text.split('id="maps">', 1)[1].split("</script>", 1)[0]) == []
    data = json.loads(text.split('id="data">', 1)[1].split("</script>", 1)[0])
    assert "lens" in data
    assert not {"attention", "attribution", "overview"} & data.keys()


@pytest.fixture(scope="module", autouse=True)
def window(request: pytest.FixtureRequest) -> None:
    """The size that these pages are looked at in, where there is a browser."""
    if BROWSER is not None and DRIVER is not None:
        request.getfixturevalue("browser").set_window_size(1200, 1000)


def use_scheme(browser: Any, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def css(browser: Any, selector: str) -> Any:
    from selenium.webdriver.common.by import By

    return browser.find_element(By.CSS_SELECTOR, selector)


def all_css(browser: Any, selector: str) -> list[Any]:
    from selenium.webdriver.common.by import By

    found: list[Any] = browser.find_elements(By.CSS_SELECTOR, selector)
    return found


def hover(browser: Any, element: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    ActionChains(browser).move_to_element(element).perform()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_chromium(browser: Any, page: Path, scheme: str) -> None:
    use_scheme(browser, scheme)
    browser.get(page.as_uri())
    assert browser.title == "Inside tiny <b>&amp;</b>"
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(252, 252, 250)") is (scheme == "light")
    figures = css(browser, "#figures").text
    assert "␣fox\n37.5 %" in figures
    assert "after layer 2" in figures
    chips = all_css(browser, "#text .chip")
    assert [chip.text for chip in chips] == [
        "Once",
        "␣</script><script>document.title='broken'</script>",
        "\\u001b[31m",
        "␣end",
    ]
    log = [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"]
    assert log == []


def shares(browser: Any) -> list[float]:
    """The shares in the list of keys, in percent."""
    return [
        float(cell.get_attribute("textContent").removesuffix(" %"))
        for cell in all_css(browser, "#keys td:nth-child(3)")
    ]


def test_heads_and_tokens(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    thumbs = all_css(browser, "#heads button")
    assert [each.get_attribute("data-head") for each in thumbs] == [
        f"{layer}.{head}" for layer, head in MAPS
    ]
    assert css(browser, "#which").text == "Head 1.1", "the overview's head is chosen first"
    thumbs[4].click()
    assert css(browser, "#which").text == "Head 2.0"
    assert thumbs[4].get_attribute("aria-pressed") == "true"
    assert "entropy 1.25 nats" in css(browser, "#summary").text
    hover(browser, all_css(browser, "#text .chip")[2])
    assert "(token 2) attends to" in css(browser, "#query").text
    expected = sorted((100 * MAPS[2, 0][2, :3]).tolist(), reverse=True)
    assert shares(browser) == pytest.approx(expected, abs=0.06)
    assert "later" in all_css(browser, "#text .chip")[3].get_attribute("class")

    css(browser, "#nofirst").click()
    row = MAPS[2, 0][2, 1:3]
    without = sorted((100 * row / row.sum()).tolist(), reverse=True)
    assert shares(browser) == pytest.approx(without, abs=0.06)
    hover(browser, all_css(browser, "#text .chip")[0])
    assert shares(browser) == [], "the first token looks at nothing else"


def test_what_is_drawn_is_the_matrix(browser: Any, page: Path) -> None:
    use_scheme(browser, "light")
    browser.get(page.as_uri())
    alphas = browser.execute_script(
        "const c = document.querySelectorAll('#heads canvas')[3];"
        "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
        ".filter((_, i) => i % 4 === 3)"
    )
    expected = 255 * MAPS[1, 1] ** 0.65
    np.testing.assert_allclose(np.array(alphas).reshape(4, 4), expected, atol=1.5)


def test_keys(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    css(browser, '#heads button[aria-pressed="true"]').send_keys(Keys.ARROW_UP)
    assert css(browser, "#which").text == "Head 0.1"
    browser.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    assert css(browser, "#which").text == "Head 0.0"
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert css(browser, "#which").text == "Head 1.0"
    css(browser, "#text").send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert "(token 1) attends to" in css(browser, "#query").text


def test_the_map_answers_the_mouse(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    hover(browser, css(browser, "#map"))
    tip = css(browser, "#tip")
    assert tip.is_displayed()
    assert "→" in tip.text
    assert "%" in tip.text


def test_the_lens(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    rows = all_css(browser, "table.lens tbody tr")
    names = [row.find_element("css selector", "th").text for row in rows]
    assert names == ["embed", "0", "1", "2"]
    cells = all_css(browser, "table.lens td")
    hover(browser, cells[4])
    tip = css(browser, "#tip").text
    assert "KL 2.000 nats" in tip
    assert "rank 3" in tip
    assert "25.0 %" in tip
    shades = [
        browser.execute_script("return getComputedStyle(arguments[0]).backgroundColor", cell)
        for cell in (cells[0], cells[4], cells[12])
    ]
    assert len(set(shades)) == 3, "the nearer, the greener"
    assert cells[12].get_attribute("class") == "yes"
    box = css(browser, "#lens-box")
    box.send_keys(Keys.ARROW_RIGHT)
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert "here" in cells[5].get_attribute("class")
    box.send_keys(Keys.ESCAPE)
    assert not css(browser, "#tip").is_displayed()


def test_influences(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    section = css(browser, "#attribution").text
    assert "log p(␣fox) − log p(␣end) = 1.500 nats" in section
    assert "not the reason" in section
    assert "completeness error 0.25 %" in section
    assert "\\xff" in section
    spans = all_css(browser, "#influence .chip")
    assert [span.get_attribute("title") for span in spans] == [
        "+0.500 nats", "-0.250 nats", "0.000 nats", "+2.000 nats",
    ]  # fmt: skip
    css(browser, 'input[value="input_x_gradient"]').click()
    assert spans[0].get_attribute("title") == "-1.000 nats"
    off = css(browser, "#heads_off").text
    assert "Without head 1.1" in off
    assert "50.0 % 25.0 % -0.693" in off
    assert "2.0000 nats a token, 2.5000 without" in off


def test_a_narrow_window_does_not_scroll_sideways(browser: Any, page: Path) -> None:
    size = browser.get_window_size()
    browser.set_window_size(520, 900)
    try:
        browser.get(page.as_uri())
        widths = browser.execute_script(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert widths[0] <= widths[1]
    finally:
        browser.set_window_size(size["width"], size["height"])


def test_screenshots(browser: Any, page: Path, tmp_path: Path) -> None:
    """Kept where KEEP_SCREENSHOTS names a folder, to be looked at."""
    folder = Path(os.environ.get("KEEP_SCREENSHOTS") or tmp_path)
    pictures = set()
    for scheme in ("light", "dark"):
        use_scheme(browser, scheme)
        browser.get(Path(os.environ.get("KEEP_PAGE") or page).as_uri())
        target = folder / f"inspect-{scheme}.png"
        assert browser.save_screenshot(str(target))
        pictures.add(target.read_bytes())
    assert len(pictures) == 2, "light and dark differ"
