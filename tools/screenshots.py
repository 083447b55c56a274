"""Pictures of a report: python tools/screenshots.py REPORT.html docs/report. Needs Chromium and its driver."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service


def main() -> None:
    page, stem = Path(sys.argv[1]).resolve(), sys.argv[2]
    for name, width, height in (("wide", 1280, 1240), ("phone", 390, 844)):
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
            options.add_argument(argument)
        # Named, so that selenium does not look for another one.
        options.binary_location = shutil.which("chromium") or ""
        with webdriver.Chrome(options, Service(shutil.which("chromedriver"))) as browser:
            # A window is never as narrow as a phone: the device is emulated.
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": name == "phone"}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            browser.get(page.as_uri())
            browser.execute_async_script("setTimeout(arguments[0], 1000)")
            path = f"{stem}-{name}.png"
            browser.save_screenshot(path)
        # Few colours are enough, and a third of the size.
        with Image.open(path) as picture:
            picture.convert("RGB").quantize(48).save(path, optimize=True)


if __name__ == "__main__":
    main()
