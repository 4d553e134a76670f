"""The report in a real, headless Chromium, from disk: what the user sees after clicks and keys."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import synthetic_rounds
import yaml
from PIL import Image
from rounds_for_tests import wait_for
from selenium.webdriver.common.keys import Keys
from test_report import draw, store

from analysis import report
from analysis.figure_store import StoredFigure
from analysis.rounds import Folders
from roundhouse.config.round import load_round
from roundhouse.store import record

if TYPE_CHECKING:
    from browser import Browser

pytestmark = pytest.mark.browser
pytest_plugins = ["browser"]

TEACHER = "digits/pure/ResNet20/0"
IMAGE = "<img src=x onerror='window.pwned=1'>"
SCRIPT = "</script><script>window.pwned=1</script><!--"
TURNED = 'a"b\\c & \u202eדהו'


def place_in(folder: Path) -> Folders:
    return Folders(folder / "experiments", folder / "rounds", folder / "analysis")


def reported(name: str, place: Folders) -> Path:
    with mock.patch.object(report, "refresh", return_value=[]):
        return report.make_report(name, place)[0]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a round with experiments in all states, in a folder that its records know nothing of."""
    folder = tmp_path_factory.mktemp("mixed")
    place = place_in(folder)
    synthetic_rounds.write_mixed(place.experiments, place.rounds, epochs=4, examples=20)
    draw(place, "mixed", {"Accuracy against alpha": None, "Curves": TEACHER})
    moved = tmp_path_factory.mktemp("moved") / "a report of #1 & more?"
    shutil.copytree(reported("mixed", place).parent, moved)
    return moved / "index.html"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a round whose names, config, reasons, logs, figures and summary would all like to run."""
    place = place_in(tmp_path_factory.mktemp("hostile"))
    place.rounds.mkdir()
    notes = ["<b onclick=alert(1)>&quot;'", 'a"bc & דהו', "plain"]
    config = {"model": IMAGE, "comment": SCRIPT, "turned": TURNED, "dataset": "digits", "method": "pure"}
    group = {"path": "a{note}/{seed}", "grid": {"note": notes, "seed": [0, 1]}, "config": config}
    content = {"round": "hostile", "study": "distillation", "experiments": {"any": group}}
    (place.rounds / "hostile.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    first, second, third, *_ = load_round("hostile", place.rounds).experiments
    with synthetic_rounds.unsynced():
        synthetic_rounds.write_experiment(place.experiments, first, "completed", epochs=2, examples=20)
        synthetic_rounds.write_experiment(place.experiments, second, "failed", epochs=2, examples=20)
        synthetic_rounds.write_experiment(place.experiments, third, "failed", epochs=2, examples=20)
    attempt = record.attempt_directory(place.experiments / "hostile" / second.path, 2)
    with (attempt / record.LOG).open("a", encoding="utf-8") as log:
        log.write(f"{IMAGE}\n{SCRIPT}\n{TURNED}\n")
    result = json.loads((attempt / record.RESULT).read_bytes())
    (attempt / record.RESULT).write_text(json.dumps({**result, "why": f"{SCRIPT} {IMAGE}"}))
    draw(place, "hostile", {IMAGE: None, SCRIPT: first.path})
    place.results("hostile").joinpath("summary.md").write_text(f"{SCRIPT}\n{IMAGE}\n", encoding="utf-8")
    return reported("hostile", place)


@pytest.fixture(autouse=True)
def _quiet(browser: Browser) -> Any:
    """Each test starts with a desktop screen and the light theme. The console must stay empty, without requests."""
    browser.screen(1280, 900)
    browser.emulate(prefers_color_scheme="light")
    browser.console()
    yield
    assert browser.console() == []
    requests = browser.run(
        "return performance.getEntries().map((one) => one.name).filter((name) => name.includes(':'))"
    )
    assert all(one.startswith(("file:", "data:")) for one in requests)
    browser.run("try { localStorage.clear() } catch {}")


def column(browser: Browser, label: str) -> list[str]:
    """The cells of a column, from the top."""
    heads = [re.sub(r" [▲▼]$", "", text) for text in browser.texts("#table thead th")]
    return browser.texts(f"#table tbody tr > :nth-child({heads.index(label) + 1})")


def head(browser: Browser, label: str) -> Any:
    return next(one for one in browser.all("#table thead button") if one.text.startswith(label))


def sorting(browser: Browser, label: str) -> str:
    content: str = browser.run("return arguments[0].closest('th').ariaSort", head(browser, label))
    return content


def count(browser: Browser) -> str:
    return browser.texts("#count")[0]


def erase(browser: Browser) -> None:
    """Empty the filter, as the user does."""
    browser.find("#filter").send_keys(Keys.CONTROL, "a", Keys.BACKSPACE)


def numbers(cells: list[str]) -> list[float]:
    return [float(cell) for cell in cells if cell != "–"]


# ------------------------------------------------------------------------------------------------------------- sorting


def test_a_click_on_a_heading_sorts_numbers_by_value_with_the_missing_last_and_a_third_one_ends_it(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    as_filed = column(browser, "experiment")
    label = "best validation accuracy (%)"
    assert sorting(browser, label) == "none"
    for order, reverse in (("ascending", False), ("descending", True)):
        head(browser, label).click()
        assert sorting(browser, label) == order
        cells = column(browser, label)
        values = numbers(cells)
        assert len(values) > 3 and values == sorted(values, reverse=reverse)
        assert cells[len(values) :] and set(cells[len(values) :]) == {"–"}
    head(browser, label).click()
    assert sorting(browser, label) == "none"
    assert column(browser, "experiment") == as_filed


def test_hours_of_very_different_size_are_sorted_as_numbers(browser: Browser, page: Path) -> None:
    browser.open(page)
    head(browser, "time (h)").click()
    values = numbers(column(browser, "time (h)"))
    assert len(values) > 3 and values == sorted(values) != sorted(values, key=str)[::-1]


def test_the_keyboard_sorts_too(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("arguments[0].focus()", head(browser, "state"))
    for order in ("ascending", "descending"):
        browser.press(Keys.ENTER)
        assert sorting(browser, "state") == order
        states = column(browser, "state")
        words = [re.sub(r"\W+", " ", one).strip() for one in states]
        assert words == sorted(words, reverse=order == "descending")


# ------------------------------------------------------------------------------------------------------------ filtering


def test_words_and_states_filter_together_and_the_number_is_reported(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert count(browser) == "17 of 17 experiments shown"
    assert browser.find("#count").get_attribute("aria-live") == "polite"
    browser.find("#filter").send_keys("FITNETS 0.25")
    assert count(browser) == "2 of 17 experiments shown"
    assert all("fitnets/alpha_0.25" in path for path in column(browser, "experiment"))
    browser.find("input[value=failed]").click()
    assert count(browser) == "1 of 17 experiments shown"
    erase(browser)
    browser.find("input[value=cancelled]").click()
    assert count(browser) == "2 of 17 experiments shown"
    assert {re.sub(r"\W", "", state) for state in column(browser, "state")} == {"failed", "cancelled"}
    browser.find("#clear").click()
    assert count(browser) == "17 of 17 experiments shown"
    assert not any(one.is_selected() for one in browser.all("#filters [name=state]"))


def test_a_filter_that_fits_nothing_states_it(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.find("#filter").send_keys("no such thing")
    assert count(browser) == "0 of 17 experiments shown"
    assert column(browser, "experiment") == []


def test_the_view_is_in_the_address_and_survives_a_reload_and_a_bookmark(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.find("#filter").send_keys("resnet8 ö&=#")
    erase(browser)
    browser.find("#filter").send_keys("resnet8")
    browser.find("input[value=completed]").click()
    head(browser, "best validation accuracy (%)").click()
    head(browser, "best validation accuracy (%)").click()
    seen = column(browser, "experiment"), count(browser)
    assert len(seen[0]) > 2
    browser.driver.refresh()
    assert (column(browser, "experiment"), count(browser)) == seen
    fragment = browser.run("return location.hash")
    browser.open(page, fragment)
    assert (column(browser, "experiment"), count(browser)) == seen
    assert browser.find("#filter").get_attribute("value") == "resnet8"
    assert browser.find("input[value=completed]").is_selected()
    assert sorting(browser, "best validation accuracy (%)") == "descending"


def test_words_with_signs_of_addresses_survive_a_reload(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.find("#filter").send_keys("a&b=c #? % ö+")
    browser.driver.refresh()
    assert browser.find("#filter").get_attribute("value") == "a&b=c #? % ö+"


def test_an_address_that_names_nothing_known_shows_all(browser: Browser, page: Path) -> None:
    browser.open(page, "#experiments?sort=nothing&state=no,such&order=sideways&%zz")
    assert count(browser) == "17 of 17 experiments shown"


def test_going_to_another_section_keeps_the_view(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.find("#filter").send_keys("logit")
    seen = count(browser)
    browser.find("nav a[href='#figures']").click()
    assert browser.run("return location.hash") == "#figures"
    assert count(browser) == seen != "17 of 17 experiments shown"


# --------------------------------------------------------------------------------------------------------------- dialog


def loaded(browser: Browser, selector: str) -> bool:
    script = "const one = document.querySelector(arguments[0]); return one && one.complete && one.naturalWidth > 0"
    return bool(browser.run(script, selector))


def test_a_click_on_a_row_shows_all_of_it_and_escape_leads_back(browser: Browser, page: Path) -> None:
    browser.open(page)
    row = browser.find("#table tbody tr")
    browser.run("arguments[0].scrollIntoView({block: 'center'})", row)
    row.find_element("css selector", "td:nth-child(3)").click()
    dialog = browser.find("#dialog")
    assert dialog.is_displayed()
    assert browser.find("#dialog-title").text == TEACHER
    content = dialog.text
    assert "label_smoothing" in content and "ResNet20" in content and "completed" in content and "attempt" in content
    browser.until(lambda: loaded(browser, "#dialog img"), "the learning curves are loaded")
    assert browser.find("#dialog a.data").get_attribute("href").endswith("figure_1.csv")
    browser.find("#dialog .enlarge").click()
    assert browser.find("#viewer-title").text == "Curves"
    browser.press(Keys.ESCAPE)
    assert dialog.is_displayed() and not browser.find("#viewer").is_displayed()
    browser.press(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert browser.run("return document.activeElement.textContent") == TEACHER


def test_a_row_opens_by_the_keyboard_alone_and_focus_returns(browser: Browser, page: Path) -> None:
    browser.open(page)
    last = browser.all("#table thead button")[-1]
    browser.run("arguments[0].focus()", last)
    browser.press(Keys.TAB)
    assert browser.run("return document.activeElement.textContent") == TEACHER
    browser.press(Keys.TAB)
    second = browser.run("return document.activeElement.textContent")
    assert second == "digits/pure/ResNet20/1"
    browser.press(Keys.ENTER)
    assert browser.find("#dialog-title").text == second
    assert browser.run("return document.getElementById('dialog').contains(document.activeElement)")
    browser.press(Keys.ESCAPE)
    assert browser.run("return document.activeElement.textContent") == second
    browser.press(Keys.ENTER)
    browser.find("#dialog .close").click()
    assert browser.run("return document.activeElement.textContent") == second


def test_the_end_of_a_failed_log_opens_by_the_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelector('.failure summary').focus()")
    assert not browser.find(".failure pre").is_displayed()
    browser.press(Keys.ENTER)
    assert "illegal memory access" in browser.find(".failure pre").text


def test_the_first_stop_of_the_keyboard_skips_to_the_content(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.press(Keys.TAB)
    assert browser.run("return document.activeElement.className") == "skip"
    assert browser.run("return document.activeElement.getBoundingClientRect().left") >= 0
    browser.press(Keys.ENTER)
    assert browser.run("return document.activeElement.id") == "main"


# --------------------------------------------------------------------------------------------------------------- viewer

SCREENS = [(1280, 900, False), (390, 844, True), (844, 390, True)]
SHAPES = [(80, 60), (832, 426), (1768, 400), (500, 2600)]


def size(browser: Browser, selector: str) -> tuple[float, float]:
    script = "const box = document.querySelector(arguments[0]).getBoundingClientRect(); return [box.width, box.height]"
    width, height = browser.run(script, selector)
    return width, height


def enlarge(browser: Browser) -> None:
    """Click on the first figure, once it is loaded."""
    browser.run("document.querySelector('.enlarge').scrollIntoView({block: 'center'})")
    browser.until(lambda: loaded(browser, ".enlarge img"), "the figure is loaded")
    browser.find(".enlarge").click()
    browser.until(lambda: loaded(browser, "#stage img"), "the large one is loaded")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("screen", SCREENS)
def test_a_click_makes_a_figure_larger_and_a_second_one_larger_still(
    browser: Browser, tmp_path: Path, screen: tuple[int, int, bool], shape: tuple[int, int]
) -> None:
    browser.screen(*screen)
    browser.open(with_figures(tmp_path, ["Accuracy"], shape))
    enlarge(browser)
    small, whole, stage = size(browser, ".enlarge img"), size(browser, "#stage img"), size(browser, "#stage")
    assert whole[0] > 1.1 * small[0]
    assert whole[0] <= stage[0] + 1 and whole[1] <= stage[1] + 1
    assert whole[0] == pytest.approx(stage[0], abs=1) or whole[1] == pytest.approx(stage[1], abs=1)
    assert whole[0] / whole[1] == pytest.approx(shape[0] / shape[1], rel=0.02)
    browser.find("#stage img").click()
    detail = size(browser, "#stage img")
    assert detail[0] > 1.1 * whole[0]
    assert detail[0] >= shape[0]
    browser.find("#stage img").click()
    assert size(browser, "#stage img") == whole


def with_figures(folder: Path, titles: Sequence[str], size: tuple[int, int] = (832, 426)) -> Path:
    """The report of a round in which nothing has started, with these figures."""
    place = place_in(folder)
    (place.experiments / "mixed").mkdir(parents=True)
    place.rounds.mkdir()
    (place.rounds / "mixed.yaml").write_text(synthetic_rounds.MIXED)
    draw(place, "mixed", dict.fromkeys(titles), size)
    return reported("mixed", place)


def test_the_viewer_works_by_the_keyboard_alone(browser: Browser, tmp_path: Path) -> None:
    browser.open(with_figures(tmp_path, ["first", "second", "third"], (2600, 1900)))
    browser.run("document.querySelector('.enlarge').focus()")
    browser.press(Keys.ENTER)
    browser.until(lambda: loaded(browser, "#stage img"), "the large one is loaded")
    assert browser.texts("#viewer-title, #viewer-place") == ["first", "1 of 3"]
    assert browser.find("#stage img").get_attribute("alt") == "first. Caption of first."
    assert "Caption of first." in browser.texts("#viewer-caption")[0]
    for key, title in ((Keys.ARROW_RIGHT, "second"), (Keys.ARROW_LEFT, "first"), (Keys.ARROW_LEFT, "third")):
        browser.press(key)
        assert browser.texts("#viewer-title") == [title]
    browser.until(lambda: loaded(browser, "#stage img"), "the third is loaded")
    browser.press(Keys.ENTER)
    start = scrolled(browser)
    browser.press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert scrolled(browser) == [start[0] + 80, start[1] + 80] and min(start) > 0
    assert browser.texts("#viewer-title") == ["third"]
    browser.press(Keys.ENTER, Keys.ARROW_LEFT)
    assert browser.texts("#viewer-title") == ["second"]
    browser.press(Keys.ESCAPE)
    assert not browser.find("#viewer").is_displayed()
    assert browser.run("return document.activeElement.getAttribute('aria-label')") == "Enlarge: second"


def scrolled(browser: Browser) -> list[float]:
    places: list[float] = browser.run(
        "const { scrollLeft, scrollTop } = document.getElementById('stage'); return [scrollLeft, scrollTop]"
    )
    return places


def rests(browser: Browser) -> bool:
    before = scrolled(browser)
    time.sleep(0.3)
    return scrolled(browser) == before


def middle(browser: Browser, selector: str) -> tuple[float, float]:
    script = "const box = document.querySelector(arguments[0]).getBoundingClientRect(); return [box.left, box.top]"
    (left, top), (width, height) = browser.run(script, selector), size(browser, selector)
    return left + width / 2, top + height / 2


def finger(browser: Browser, way: Sequence[tuple[float, float]]) -> None:
    """Touch the screen at the first of these places, move to the others, and let go."""

    def touch(kind: str, points: list[dict[str, float]]) -> None:
        browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    for number, (x, y) in enumerate(way):
        touch("touchMove" if number else "touchStart", [{"x": x, "y": y}])
    touch("touchEnd", [])


def test_the_viewer_works_by_touch(browser: Browser, tmp_path: Path) -> None:
    browser.screen(390, 844, phone=True)
    browser.open(with_figures(tmp_path, ["first", "second"], (1768, 900)))
    browser.run("document.querySelector('.enlarge').scrollIntoView({block: 'center'})")
    browser.until(lambda: loaded(browser, ".enlarge img"), "the figure is loaded")
    finger(browser, [middle(browser, ".enlarge")])
    browser.until(lambda: browser.find("#viewer").is_displayed(), "a tap opens the viewer")
    browser.until(lambda: loaded(browser, "#stage img"), "the large one is loaded")
    finger(browser, [(300, 380), (200, 382), (90, 385)])
    browser.until(lambda: browser.texts("#viewer-title") == ["second"], "a swipe shows the next figure")
    assert size(browser, "#stage img")[0] == pytest.approx(390, abs=1)
    finger(browser, [middle(browser, "#stage")])
    browser.until(lambda: size(browser, "#stage img")[0] == 1768, "a tap shows the natural size")
    start = scrolled(browser)
    finger(browser, [(300, 380), (280, 380), (200, 380), (120, 380)])
    browser.until(lambda: scrolled(browser)[0] > start[0], "a finger scrolls")
    browser.until(lambda: rests(browser), "which ends in its own time")
    assert browser.texts("#viewer-title") == ["second"]
    finger(browser, [middle(browser, "#stage")])
    browser.until(lambda: size(browser, "#stage img")[0] < 400, "a tap shows the whole figure again")
    browser.find("#viewer .previous").click()
    assert browser.texts("#viewer-title") == ["first"]
    browser.find("#viewer .close").click()
    assert not browser.find("#viewer").is_displayed()


def test_of_many_figures_only_those_near_the_screen_are_loaded(browser: Browser, tmp_path: Path) -> None:
    titles = [f"figure {number}" for number in range(150)]
    browser.open(with_figures(tmp_path, titles))
    ready = "return [...document.querySelectorAll('.enlarge img')].filter((one) => one.naturalWidth).length"
    browser.run("document.getElementById('figures').scrollIntoView()")
    browser.until(lambda: browser.run(ready) > 3, "the first figures are loaded")
    assert browser.run(ready) < 60
    assert len(browser.all(".enlarge")) == 150
    browser.run("[...document.querySelectorAll('.enlarge')].at(-1).scrollIntoView()")
    last = "return [...document.querySelectorAll('.enlarge img')].at(-1).naturalWidth"
    browser.until(lambda: browser.run(last) > 0, "the last figure is loaded")


def test_a_closed_section_of_figures_is_left_out_of_the_viewer(browser: Browser, tmp_path: Path) -> None:
    page = with_figures(tmp_path, ["own"])
    plots = [StoredFigure(f"overviews/{one}", one, "Caption.", "key", ("png",)) for one in ("a", "b")]
    store(place_in(tmp_path).results("mixed") / "plots", plots)
    reported("mixed", place_in(tmp_path))
    browser.open(page)
    assert browser.texts("#figures .files a") == ["Analysis of the study (1)", "Overviews (2)"]
    browser.find("#figures-1 summary").click()
    assert not browser.find("#figures-1 .enlarge").is_displayed()
    browser.find("#figures-2 .enlarge").click()
    assert browser.texts("#viewer-place") == ["1 of 2"]
    browser.press(Keys.ESCAPE)


# ---------------------------------------------------------------------------------------------------------------- theme


def background(browser: Browser) -> tuple[float, ...]:
    content = browser.run("return getComputedStyle(document.body).backgroundColor")
    return tuple(float(one) for one in re.findall(r"[\d.]+", content)[:3])


def test_the_page_follows_the_system_into_the_dark(browser: Browser, page: Path) -> None:
    browser.open(page)
    light = background(browser)
    browser.emulate(prefers_color_scheme="dark")
    assert sum(light) > 600 and sum(background(browser)) < 150
    browser.until(lambda: browser.find("#theme").text == "Light theme", "the button offers the other theme")


def test_the_button_changes_the_theme_against_the_system_and_is_remembered(browser: Browser, page: Path) -> None:
    browser.open(page)
    light = background(browser)
    browser.find("#theme").click()
    dark = background(browser)
    assert dark != light

    def dark_when_opened_again() -> bool:
        browser.driver.refresh()
        return background(browser) == dark

    wait_for(dark_when_opened_again, "the browser has stored the choice, which it does in its own time", 10)
    browser.find("#theme").click()
    assert background(browser) == light
    browser.emulate(prefers_color_scheme="dark")
    assert background(browser) == light


def colour(browser: Browser, selector: str) -> tuple[int, ...]:
    """The colour in the middle of an element, as it is painted."""
    image = Image.open(io.BytesIO(browser.find(selector).screenshot_as_png)).convert("RGB")
    return tuple(image.getpixel((image.width // 2, image.height // 2)))


def test_in_the_dark_a_figure_is_dimmed_in_the_page_and_exact_when_enlarged(browser: Browser, tmp_path: Path) -> None:
    browser.open(with_figures(tmp_path, ["first"]))
    grey = (0x99,) * 3
    enlarge(browser)
    assert colour(browser, "#stage img") == grey
    browser.press(Keys.ESCAPE)
    assert colour(browser, ".enlarge") == grey
    browser.emulate(prefers_color_scheme="dark")
    dimmed = colour(browser, ".enlarge")
    assert len(set(dimmed)) == 1 and 0.8 * grey[0] < dimmed[0] < 0.9 * grey[0]
    enlarge(browser)
    assert colour(browser, "#stage img") == grey


CONTRASTS = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const numbers = (colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const behind = (one) => {
  for (let at = one; at; at = at.parentElement) {
    const colour = numbers(getComputedStyle(at).backgroundColor);
    if (colour[3] === 255) return colour;
  }
  return [255, 255, 255, 255];
};
const light = (colour) => {
  const linear = (one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = colour.map((one) => linear(one / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const found = [];
for (const one of document.querySelectorAll("body *")) {
  const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(one.tagName) || !one.getClientRects().length) continue;
  const [a, b] = [light(numbers(getComputedStyle(one).color)), light(behind(one))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  found.push([contrast, one.tagName, one.className, one.textContent.slice(0, 30)]);
}
return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_that_people_need(browser: Browser, page: Path, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    browser.emulate(prefers_color_scheme=scheme)
    browser.open(page)
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
    found = browser.run(CONTRASTS)
    assert len(found) > 100
    assert [one for one in found if one[0] < 4.5] == []


# ---------------------------------------------------------------------------------------------------------------- phone


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_sticks_out_and_fingers_find_their_aims(browser: Browser, page: Path, scheme: str) -> None:
    browser.emulate(prefers_color_scheme=scheme)
    browser.screen(375, 800, phone=True)
    browser.open(page)
    assert browser.run("return innerWidth") == 375
    assert browser.run("return document.documentElement.scrollWidth") <= 375
    assert browser.run("return matchMedia('(pointer: coarse)').matches")
    small = browser.run(
        "return [...document.querySelectorAll('button, input[type=search], summary, nav a, .tick')]"
        ".filter((one) => one.getClientRects().length && one.getBoundingClientRect().height < 44)"
        ".map((one) => one.outerHTML)"
    )
    assert small == []
    browser.find("#table tbody tr button").click()
    box = browser.run(
        "const box = document.getElementById('dialog').getBoundingClientRect(); return [box.left, box.right]"
    )
    assert box[0] >= 0 and box[1] <= 375
    assert browser.run("const one = document.getElementById('dialog'); return one.scrollWidth <= one.clientWidth")
    browser.find("#dialog .close").click()


NAME_LEFT = "return document.querySelector('#table tbody th').getBoundingClientRect().left"
BOXES = """
return [...document.querySelectorAll("#table thead th")].map((one) => {
  const box = one.getBoundingClientRect();
  return [one.innerText, box.left, box.right];
});
"""


def test_on_a_phone_all_columns_are_reached_beside_the_names_of_the_experiments(browser: Browser, page: Path) -> None:
    browser.screen(390, 844, phone=True)
    browser.open(page)
    left, right = browser.run(
        "const box = document.querySelector('.tall').getBoundingClientRect(); return [box.left, box.right]"
    )
    seen = set()
    for at in range(0, 4000, 60):
        browser.run("document.querySelector('.tall').scrollLeft = arguments[0]", at)
        (name, start, end), *others = browser.run(BOXES)
        assert (name, round(start)) == ("experiment", round(left + 1))
        assert browser.run(NAME_LEFT) == start
        assert end - start < 0.5 * (right - left)
        seen |= {label for label, one, other in others if one >= end - 1 and other <= right}
    heads = browser.texts("#table thead th")
    assert len(heads) > 12 and len(seen) == len(heads) - 1
    assert any("test accuracy" in label for label in seen) and any("peak memory" in label for label in seen)


def test_no_column_is_empty(browser: Browser, page: Path) -> None:
    browser.open(page)
    for label in browser.texts("#table thead th"):
        assert set(column(browser, label)) - {"", "–"}, label
    browser.find("#table tbody tr button").click()
    heads = browser.texts("#dialog .scroll th")
    rows = [browser.texts(f"#dialog .scroll td:nth-child({place + 1})") for place in range(len(heads))]
    assert heads and all(set(cells) - {"", "–"} for cells in rows)
    browser.press(Keys.ESCAPE)


# ------------------------------------------------------------------------------------------------------ hostile content


def test_whatever_records_hold_is_text_and_runs_nowhere(browser: Browser, hostile: Path) -> None:
    browser.open(hostile)
    assert count(browser) == "6 of 6 experiments shown"
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
    logs = "\n".join(browser.texts(".failure pre"))
    assert IMAGE in logs and SCRIPT in logs and TURNED in logs
    assert any(SCRIPT in text for text in browser.texts(".failure summary"))
    assert browser.texts(".gallery figcaption strong") == [IMAGE]
    (summary,) = browser.texts(".summary")
    assert SCRIPT in summary and IMAGE in summary
    for number in range(3):
        browser.run("document.querySelectorAll('#table tbody tr button')[arguments[0]].click()", number)
        content = browser.find("#dialog").text
        assert IMAGE in content and SCRIPT in content and "<b onclick=alert(1)>&quot;'" in browser.texts("#table")[0]
        browser.press(Keys.ESCAPE)
    browser.find("#filter").send_keys(IMAGE)
    assert count(browser) == "1 of 6 experiments shown"  # the one whose reason holds it
    assert browser.all("b[onclick], img[onerror]") == []
    assert browser.run("return window.pwned") is None


def test_a_script_that_got_in_could_not_run(browser: Browser, hostile: Path) -> None:
    browser.open(hostile)
    browser.run(
        "const script = document.createElement('script'); script.textContent = 'window.pwned = 1';"
        "document.body.append(script);"
        "const image = document.createElement('div'); image.innerHTML = arguments[0]; document.body.append(image);"
        "const far = document.createElement('img'); far.src = 'http://127.0.0.1:9/x.png'; document.body.append(far)",
        IMAGE,
    )
    content = browser.until(browser.console, "the browser reports what it refused")
    assert any("Content Security Policy" in one for one in content)
    assert browser.run("return window.pwned") is None
    browser.open(hostile)
    browser.console()


# ------------------------------------------------------------------------------------------------------------ many rows


def test_ten_thousand_rows_are_drawn_bit_by_bit_and_sorted_and_filtered_whole(browser: Browser, tmp_path: Path) -> None:
    place = place_in(tmp_path)
    (place.experiments / "many").mkdir(parents=True)
    place.rounds.mkdir()
    grid = {"lr": [number / 10 for number in range(1, 21)], "seed": list(range(500))}
    content = {
        "round": "many",
        "study": "distillation",
        "experiments": {"all": {"path": "{lr}/{seed}", "grid": grid}},
    }
    (place.rounds / "many.yaml").write_text(yaml.safe_dump(content))
    browser.open(reported("many", place))
    assert count(browser) == "10000 of 10000 experiments shown"
    drawn = len(browser.all("#table tbody tr"))
    assert 0 < drawn < 1000
    browser.run("document.getElementById('more').scrollIntoView()")
    browser.until(lambda: len(browser.all("#table tbody tr")) > drawn, "more rows are drawn")
    head(browser, "seed").click()
    head(browser, "seed").click()
    assert numbers(column(browser, "seed"))[:40] == [499] * 20 + [498] * 20
    browser.find("#filter").send_keys("1.5/49")
    assert count(browser) == "11 of 10000 experiments shown"
