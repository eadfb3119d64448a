"""``--html`` of generate, next and score --vs: pages made by the commands, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llmcli.cli.main import cli

PROMPT = "The fox said <b>to</b> the crow"
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    def run(command: str, *args: str) -> Path:
        path = tmp_path_factory.mktemp("page") / "page.html"
        model = ["-m", str(tiny_gpt2), "--threads", "1", "--html", str(path)]
        result = CliRunner().invoke(cli, [command, *model, *args])
        assert result.exit_code == 0, result.stderr
        (path.parent / "stdout").write_text(result.stdout)
        return path

    return run


def data(page: Path, name: str) -> Any:
    text = page.read_text("utf-8").split(f'id="{name}">', 1)[1].split("</script>", 1)[0]
    return json.loads(text)


def look(browser: Any, page: Path, scheme: str = "light") -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.set_window_size(1000, 900)
    browser.get(page.as_uri())
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(22, 23, 26)") is (scheme == "dark")
    assert [each for each in browser.get_log("browser") if each["level"] != "INFO"] == []
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(wide) <= 0, "nothing hangs over"


def texts(browser: Any, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)"
    found: list[str] = browser.execute_script(script, selector)
    return found


def hover(browser: Any, selector: str) -> str:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    ActionChains(browser).move_to_element(browser.find_element(By.CSS_SELECTOR, selector)).perform()
    return str(browser.find_element(By.ID, "tip").text)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_generate(make: Make, browser: Any, scheme: str) -> None:
    args = ["-n", "6", "--seed", "1", "--num-return-sequences", "2", "--logprobs", "3", "--json"]
    page = make("generate", *args, PROMPT)
    answers = [json.loads(line) for line in (page.parent / "stdout").read_text().splitlines()]
    look(browser, page, scheme)
    panels = texts(browser, ".text")
    for shown, answer in zip(panels, answers, strict=True):
        assert shown.startswith(PROMPT)
        assert len(shown) > len(PROMPT)
        assert answer["completion_tokens"] == 6
    assert texts(browser, "h2") == [f"continuation {n} ended by length" for n in (1, 2)]
    first = answers[0]["tokens"][0]
    tip = hover(browser, '.text span[data-index="0"]')
    assert f"id {first['id']}, drawn at" in tip
    assert f"{-first['logprob'] / 0.6931471805599453:.2f} bits" in tip
    assert tip.count("%") == 5, "its own, the one it was drawn at, and three alternatives"
    assert len(texts(browser, "svg path.mean")) == 2
    assert texts(browser, ".legend span") == ["continuation 1", "continuation 2"]
    assert texts(browser, "svg .tick")[-3:] == ["4", "5", "6"], "the axis ends with the last token"


def test_five_alternatives_are_the_default(make: Make) -> None:
    entries = data(make("generate", "-n", "3", "--greedy", PROMPT), "stretches")
    tokens = [token for _, _, _, several in entries for token in several]
    assert [len(token[5]) for token in tokens] == [5, 5, 5]
    assert all(token[5][0][1] == token[2] for token in tokens), "greedy draws the likeliest"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_next(make: Make, browser: Any, scheme: str) -> None:
    page = make("next", "-n", "7", "--top-k", "3", "--json", PROMPT)
    record = json.loads((page.parent / "stdout").read_text())
    look(browser, page, scheme)
    assert texts(browser, "#prompt") == [PROMPT]
    assert len(texts(browser, "svg rect.own")) == 7
    assert len(texts(browser, "svg rect.drawn")) == 3, "what the filter left"
    ticks = [float(each.removesuffix(" %")) for each in texts(browser, "svg .tick")]
    assert ticks[0] == 0
    assert ticks == sorted(ticks)
    assert len(ticks) >= 3
    best = record["candidates"][0]
    tip = hover(browser, "svg rect.hit")
    assert f"id {best['id']}, drawn at {100 * best['sampled_probability']:.1f} %" in tip
    assert "top-k 3" in texts(browser, "#filters td")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_two_models_side_by_side(make: Make, browser: Any, scheme: str) -> None:
    page = make("score", "--vs-precision", "int8", "--json", PROMPT)
    record = json.loads((page.parent / "stdout").read_text())
    entries = data(page, "stretches")
    for which, figures in enumerate((record, record["vs"])):
        tokens = [token for text, _, _, several in entries if text == which for token in several]
        assert len(tokens) == record["tokens"]
        assert sum(-token[2] for token in tokens) == pytest.approx(figures["nll"], abs=0.01)
        assert all(len(token[5]) == 5 for token in tokens)
    look(browser, page, scheme)
    assert texts(browser, ".text") == [PROMPT, PROMPT]
    places = "return [...document.querySelectorAll('section')].map((each) => each.offsetTop)"
    assert len(set(browser.execute_script(places))) == 1, "side by side"
    tip = hover(browser, '.text span[data-index="1"]')
    assert tip.count(" bits") == 4, "surprisal and entropy by both models"
    assert len(texts(browser, ".match")) == 1
    assert len(texts(browser, "svg path.mean")) == 2
    names = texts(browser, ".legend span")
    assert [name[:2] for name in names] == ["A:", "B:"]
    assert names[1].endswith("(int8)")


def test_each_model_says_what_it_says_alone(make: Make) -> None:
    """Ranks, entropies and alternatives of a pair are those of each model scored by itself."""
    pair = data(make("score", "--vs-precision", "int8", PROMPT), "stretches")
    for which, precision in enumerate(("float32", "int8")):
        alone = data(make("score", "--precision", precision, PROMPT), "stretches")
        own = [(text, seen) for panel, text, _, seen in pair if panel == which]
        for (text, seen), (_, same, _, wanted) in zip(own, alone, strict=True):
            assert text == same
            for token, other in zip(seen, wanted, strict=True):
                assert token[:2] == other[:2]
                assert token[3] == other[3]
                assert [token[2], token[4]] == pytest.approx([other[2], other[4]], abs=2e-3)
                assert [each for each, _ in token[5]] == [each for each, _ in other[5]]


def test_other_tokenizers_are_paired_by_bytes(make: Make, tiny_gpt2: Path) -> None:
    page = make("score", "--vs", "fable", "--json", PROMPT)
    record = json.loads((page.parent / "stdout").read_text())
    assert "nll_per_byte" in record["difference"]
    entries = data(page, "stretches")
    for which, tokens in enumerate((record["tokens"], record["vs"]["tokens"])):
        own = [(text, size, seen) for panel, text, size, seen in entries if panel == which]
        assert "".join(text for text, _, _ in own) == PROMPT
        assert sum(size for _, size, _ in own) == len(PROMPT.encode())
        assert sum(len(seen) for _, _, seen in own) == tokens


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["generate", "--html", "x.html", "--jsonl"], "--html does not go with --jsonl"),
        (["next", "--html", "x.html", "--jsonl"], "--html does not go with --jsonl"),
        (["generate", "--html", "x.html", "--num-beams", "2", "x"], "which beam search does not"),
        (["generate", "--html", ".", "x"], ". is a directory"),
        (["next", "--html", ".", "x"], ". is a directory"),
        (["score", "--html", "x", "--by", "line", "x"], "exclude each other"),
    ],
)
def test_what_does_not_go(tiny_gpt2: Path, args: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, [args[0], "-m", str(tiny_gpt2), *args[1:]], input="{}\n")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
