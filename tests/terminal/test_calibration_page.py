"""The page and the picture of calibrate, in a real Chromium."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from llmcli.terminal.calibration_page import write_page, write_picture

MODEL = "tiny </script><script>document.title='broken'</script>"
FROM = {"model": MODEL, "revision": "0123456789abcdef", "versions": {"llmcli": "1"}}
TOKENS: dict[str, Any] = {
    **FROM,
    "tokens": 1300,
    "accuracy": 0.31,
    "confidence": 0.35,
    "nll": 3.1,
    "entropy": 3.25,
    "ece": 0.0412,
    "ece_floor": [0.0101, 0.0207],
    "ece_interval": [0.03, 0.05],
    "ace": 0.04,
    "smece": 0.039,
    "brier": 0.15,
    "temperature": None,
    "temperature_interval": None,
    "bins": [
        {
            "low": n / 4,
            "high": n / 4 + 0.25,
            "tokens": 1000 // (n + 1),
            "confidence": n / 4 + 0.15,
            "accuracy": n / 4 + 0.1,
            "accuracy_interval": [n / 4 + 0.05, n / 4 + 0.2],
        }
        for n in range(4)
    ],
}
_MEANS = {"entropy": 3.0, "sampling_entropy": 2.5, "surprisal": 2.6, "text_nll": 2.9, "entce": -0.4}


def depth(begin: int, shift: float, *, text: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"begin": begin, "end": begin + 64}
    for name, value in _MEANS.items():
        there = text or name not in ("text_nll", "entce")
        found[name] = value + shift if there else None
        found[f"{name}_interval"] = [value + shift - 0.1, value + shift + 0.1] if there else None
    return found


def generations(*, text: bool) -> dict[str, Any]:
    blocks = [depth(n * 64, n / 10, text=text) for n in range(3)]
    match = {"flags": "--temperature 0.9"} if text else None
    own = {"samples": 8, "length": 192, "match": match}
    return {**FROM, **own, "blocks": blocks, "overall": depth(0, 0.1, text=text)}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    records = {
        "tokens": TOKENS,
        "text": generations(text=True),
        "nothing": generations(text=False),
    }
    for name, record in records.items():
        write_page(folder / f"{name}.html", record)
    return {name: folder / f"{name}.html" for name in records}


def show(browser: Any, page: Path, scheme: str = "light") -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page.as_uri())


def keep(browser: Any, name: str) -> None:
    """Take a picture where KEEP_SCREENSHOTS names a folder, to be looked at."""
    if folder := os.environ.get("KEEP_SCREENSHOTS"):
        assert browser.save_screenshot(str(Path(folder) / f"calibration-{name}.png"))


def hover(browser: Any, selector: str, index: int) -> str:
    from selenium.webdriver.common.action_chains import ActionChains

    place = browser.find_elements("css selector", selector)[index]
    ActionChains(browser).move_to_element(place).perform()
    text: str = browser.find_element("id", "tip").text
    return text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_reliability_diagram(browser: Any, pages: dict[str, Path], scheme: str) -> None:
    show(browser, pages["tokens"], scheme)
    assert browser.title == f"Calibration of {MODEL}"
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(252, 252, 250)") is (scheme == "light")
    bars = browser.find_elements("css selector", "svg .bar")
    heights = [float(bar.get_attribute("height")) for bar in bars]
    assert heights == pytest.approx([360 * (n / 4 + 0.1) for n in range(4)])
    tip = hover(browser, "svg .hit", 1)
    assert "500 tokens" in tip
    assert "accuracy 35.0 % (30.0 % to 45.0 %)" in tip
    figures = browser.find_element("id", "figures").text
    assert "0.0412" in figures
    assert "95 % under 0.0207" in figures
    keep(browser, f"tokens-{scheme}")
    assert len(browser.find_elements("css selector", "table tr")) == 5
    assert not browser.get_log("browser")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_by_depth(browser: Any, pages: dict[str, Path], scheme: str) -> None:
    show(browser, pages["text"], scheme)
    names = [
        line.get_attribute("data-name")
        for line in browser.find_elements("css selector", "svg .line")
    ]
    assert names == ["text_nll", "surprisal", "entropy", "sampling_entropy"]
    colours = {
        browser.execute_script("return getComputedStyle(arguments[0]).stroke", line)
        for line in browser.find_elements("css selector", "svg .line")
    }
    assert len(colours) == 4
    tip = hover(browser, "svg circle", 4)
    assert "tokens 65 to 128" in tip
    assert "surprisal of what was drawn: 2.7" in tip
    assert "2.6 to 2.8" in tip
    keep(browser, f"generations-{scheme}")
    assert "--temperature 0.9" in browser.find_element("id", "figures").text
    show(browser, pages["nothing"], scheme)
    assert len(browser.find_elements("css selector", "svg .line")) == 3
    assert "–" in browser.find_element("id", "table").text
    assert not browser.get_log("browser")


def test_a_narrow_window_does_not_scroll_sideways(browser: Any, pages: dict[str, Path]) -> None:
    size = browser.get_window_size()
    browser.set_window_size(520, 900)
    try:
        for page in pages.values():
            show(browser, page)
            widths = browser.execute_script(
                "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
            )
            assert widths[0] <= widths[1]
    finally:
        browser.set_window_size(size["width"], size["height"])


def test_the_page_names_no_other_place(pages: dict[str, Path]) -> None:
    text = pages["tokens"].read_text("utf-8")
    assert "default-src 'none'" in text
    assert text.count("</script>") == 2, "no name ends a script element"
    assert text.count("http") == text.count("http://www.w3.org/2000/svg") + text.count("http-equiv")


@pytest.mark.parametrize("name", ["tokens", "nothing"])
def test_pictures(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    record = TOKENS if name == "tokens" else generations(text=name == "text")
    target = Path(os.environ.get("KEEP_SCREENSHOTS") or tmp_path) / f"{name}.png"
    write_picture(target, record)
    data = target.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1050, 825)
