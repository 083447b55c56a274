"""The page in headless Chromium, as a reader has it: a file, no network. It and its driver are Debian's packages."""

import shutil

import pytest
from report_samples import sample
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from fastconv.report import html, runs

WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Files: of one run with a failure and a name that would break out of its element, and of three runs."""
    folder = tmp_path_factory.mktemp("pages")
    data = sample(failed=("conv2d/mnn",), moved=True)
    data["fastconv"]["untimed"][0]["absent"] = "</script><script>document.title='broken'</script>"
    history = [runs.read(sample(seed=seed, date=f"2026-11-2{seed}T07:00:00")) for seed in (1, 2, 3)]
    found = {"one": html.page([runs.read(data)]), "three": html.page(history)}
    for name, text in found.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in found}


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    places = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    assert all(places.values()), f"{places}: needs Debian's packages chromium and chromium-driver"
    options.binary_location = places["chromium"]
    with webdriver.Chrome(options, Service(places["chromedriver"])) as driver:
        yield driver


def opened(browser, path, width=1280, scheme="light"):
    """The page, drawn, at a width and in a colour scheme."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(path.as_uri())
    for _ in range(100):
        if browser.execute_script("return document.documentElement.dataset.ready === 'yes'"):
            return browser
        browser.execute_async_script("setTimeout(arguments[0], 50)")
    raise AssertionError(f"the page is not ready: {browser.get_log('browser')}")


def first_column(browser, table):
    script = (
        "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].map(r => r.cells[0].textContent.trim())"
    )
    return browser.execute_script(script, table)


@pytest.mark.parametrize("name", ["one", "three"])
def test_it_loads_without_errors_and_without_the_network(browser, pages, name):
    browser.get_log("performance")
    opened(browser, pages[name])
    assert browser.get_log("browser") == []
    asked = [
        entry["message"] for entry in browser.get_log("performance") if "Network.requestWillBeSent" in entry["message"]
    ]
    assert not [message for message in asked if '"url":"http' in message]
    assert browser.title != "broken"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_follows_the_scheme(browser, pages, width, scheme):
    opened(browser, pages["one"], width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ground = browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
    body = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    shown = body if body != "rgba(0, 0, 0, 0)" else ground
    brightness = sum(int(part) for part in shown[shown.index("(") + 1 : -1].split(",")[:3])
    assert brightness > 600 if scheme == "light" else brightness < 200


def test_plots_have_points_and_ceilings(browser, pages):
    opened(browser, pages["one"])
    run = runs.read(sample(failed=("conv2d/mnn",), moved=True))
    rated = [row for row in run.rows if row.timed and row.flops and row.bytes]
    points = browser.find_elements(By.CSS_SELECTOR, '[data-plot="roofline"] .mark-symbol path')
    assert len(points) == len(rated)
    text = browser.find_element(By.CSS_SELECTOR, '[data-plot="roofline"]').text
    for ceiling in ("FMA on 2 threads", "copy in L2", "copy in L3", "copy in memory"):
        assert ceiling in text
    assert browser.find_elements(By.CSS_SELECTOR, '[data-plot="errors"] .mark-symbol path')


def test_a_case_in_focus_has_names(browser, pages):
    opened(browser, pages["one"])
    focus = Select(browser.find_element(By.CSS_SELECTOR, 'select[data-focus~="roofline"]'))
    next(option for option in focus.options if option.text.strip() == "vgg3_2").click()
    browser.execute_async_script("setTimeout(arguments[0], 300)")
    assert "winograd_f4" in browser.find_element(By.CSS_SELECTOR, '[data-plot="roofline"]').text


def test_sorting_by_ratio(browser, pages):
    opened(browser, pages["one"])
    before = first_column(browser, "layer-table")
    head = browser.find_elements(By.CSS_SELECTOR, "#layer-table thead th")[-1]

    def sorted_by_click(direction):
        """Rows after a click, which the table answers later, in a task of its own."""
        head.click()
        WebDriverWait(browser, 10).until(lambda _: head.get_attribute("aria-sort") == direction)
        return first_column(browser, "layer-table")

    up = sorted_by_click("ascending")
    down = sorted_by_click("descending")
    assert sorted(up) == sorted(down) == sorted(before)
    cells = "[...document.querySelectorAll('#layer-table tbody tr')].map(row => row.cells[row.cells.length - 1]"
    script = f"return {cells}.dataset.order)"
    shown = [float(value) for value in browser.execute_script(script) if value]
    assert shown == sorted(shown, reverse=True)
    assert len(set(shown)) > 5
    assert up != down


def test_filtering_by_text_and_by_choice(browser, pages):
    opened(browser, pages["one"])
    form = browser.find_element(By.CSS_SELECTOR, 'form.filters[data-for="layer-table"]')
    form.find_element(By.NAME, "text").send_keys("vgg3_2")
    assert all("vgg3_2" in text for text in first_column(browser, "layer-table"))
    form.find_element(By.NAME, "text").send_keys(" nothing of that name")
    assert first_column(browser, "layer-table") == ["nothing like that"]
    opened(browser, pages["one"])
    form = browser.find_element(By.CSS_SELECTOR, 'form.filters[data-for="layer-table"]')
    everything = first_column(browser, "layer-table")
    choice = Select(form.find_element(By.TAG_NAME, "select"))
    choice.select_by_value("gradient")
    some = first_column(browser, "layer-table")
    assert 0 < len(some) < len(everything)
    assert all("grad" in text for text in some)


def test_what_must_be_on_its_face(pages):
    """Warnings, failures with their reason and without a part in any mean, and how to do a row again."""
    text = pages["one"].read_text(encoding="utf-8")
    run = runs.read(sample(failed=("conv2d/mnn",), moved=True))
    assert any("moved by" in warning for warning in run.warnings)
    for warning in run.warnings:
        assert warning in text
    failed = [row for row in run.rows if row.failure]
    assert failed
    assert text.count("FAIL") >= len(failed)
    assert "pytest --benchmark -k" in text
    for network in run.networks:
        assert network in text
    assert "<script>document.title" not in text


def test_history_shows_every_run(browser, pages):
    opened(browser, pages["three"])
    assert browser.find_element(By.ID, "history")
    assert browser.find_elements(By.CSS_SELECTOR, '[data-plot="history"] path')


def test_of_no_run_there_is_no_page():
    with pytest.raises(ValueError, match="there is none"):
        html.page([])


def test_networks_fit_a_wide_window(browser, pages):
    opened(browser, pages["one"], 1280)
    tables = "[...document.querySelectorAll('.network')].map(table => table.parentElement)"
    script = f"return {tables}.map(around => around.scrollWidth - around.clientWidth)"
    assert not any(browser.execute_script(script))


def test_paper_has_tables_and_every_bar(browser, pages):
    """A4 is as narrow as a large phone, and yet gets the wide layout; what is closed on the screen is printed."""
    opened(browser, pages["one"], 700)
    script = "return getComputedStyle(document.querySelector('#layer-table tbody tr')).display"
    bars = "return [...document.querySelectorAll('.bars li')].filter(bar => bar.checkVisibility()).length"
    assert browser.execute_script(script) == "grid"
    shown = browser.execute_script(bars)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert browser.execute_script(script) == "table-row"
        browser.execute_script("dispatchEvent(new Event('beforeprint'))")
        every = browser.execute_script("return document.querySelectorAll('.bars li').length")
        assert browser.execute_script(bars) == every > shown
        browser.execute_script("dispatchEvent(new Event('afterprint'))")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert browser.execute_script(bars) == shown
