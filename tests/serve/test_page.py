"""The page at ``/``, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from servers import Server, Start

from llmcli.models.language_model import LanguageModel

HOSTILE = "<img src=x onerror=\"document.title='broken'\">Once"


@pytest.fixture(scope="module")
def server(start_server: Start) -> Iterator[Server]:
    with start_server() as server:
        yield server


def set_to(browser: Any, **values: str) -> None:
    for name, value in values.items():
        browser.execute_script(
            "document.getElementById(arguments[0]).value = arguments[1]", name, value
        )


def wait(browser: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60, poll_frequency=0.02).until(lambda it: it.execute_script(script))


def test_a_text_is_made_and_can_be_asked_about(
    server: Server, browser: Any, fable: LanguageModel
) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    browser.get(server.url + "/")
    wait(browser, "return document.getElementById('model').textContent.startsWith('fable')")
    set_to(browser, prompt=HOSTILE, max_tokens="12", seed="3", temperature="0.9")
    browser.find_element(By.ID, "go").click()
    wait(browser, "return document.body.dataset.state === 'done'")
    expected = server.complete(HOSTILE, max_tokens=12, seed=3, temperature=0.9)["choices"][0]
    shown = browser.execute_script("return document.getElementById('text').textContent")
    assert shown == HOSTILE + expected["text"]
    assert browser.title == "llmcli"
    about = browser.find_element(By.ID, "about").text
    assert about == f"seed 3, 12 tokens, ended by {expected['finish_reason']}"
    tokens = browser.find_elements(By.CSS_SELECTOR, "#text .token")
    assert "rgb" in tokens[0].value_of_css_property("background-color")
    ActionChains(browser).move_to_element(tokens[0]).perform()
    tip = browser.find_element(By.ID, "tip")
    assert tip.is_displayed()
    assert 8 <= len(tip.find_elements(By.CSS_SELECTOR, "tr")) <= 9
    assert "%" in tip.text
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]


def test_it_stops_and_says_what_is_wrong(server: Server, browser: Any) -> None:
    from selenium.webdriver.common.by import By

    browser.get(server.url + "/")
    set_to(browser, prompt="Once", max_tokens="900", seed="1")
    browser.find_element(By.ID, "go").click()
    wait(browser, "return document.querySelectorAll('#text .token').length > 2")
    browser.find_element(By.ID, "stop").click()
    wait(browser, "return document.body.dataset.state === 'done'")
    assert browser.find_element(By.ID, "about").text == "seed 1, stopped"
    while server.get("/readyz").json()["running"]:
        pass
    set_to(browser, prompt="fox " * 3000)
    browser.find_element(By.ID, "go").click()
    wait(browser, "return document.getElementById('about').className === 'wrong'")
    assert "the context holds 1024" in browser.find_element(By.ID, "about").text
