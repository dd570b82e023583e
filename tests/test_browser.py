"""The explorer in a real browser: `make test-browser`.  Needs a Chromium of the system; `make test` leaves it out."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
GET_ONE = (
    "there is no Chromium on this machine: install one from its packages (Debian: apt-get install chromium) "
    "or name one by CHROMIUM=/path/to/chromium"
)
# As root there is no sandbox; the rest keeps the browser from looking for its maker.
OPTIONS = ["--no-sandbox", "--disable-gpu", "--no-first-run"]
OPTIONS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
PATIENCE = 600
"""Seconds for a machine that does much else; the times themselves are printed."""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    """Open before the command is started, as a user's is."""
    assert CHROMIUM, GET_ONE
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(browser):
    """(process, address, when it was started) of the command as a user starts it, on a free port."""
    began = time.monotonic()
    command = [sys.executable, "-m", "simulator", "explore", "--no-browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            yield process, re.match(r"explorer at (http://127\.0\.0\.1:\d+); Ctrl-C ends it\n", line)[1], began
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


@pytest.fixture(scope="module")
def opened(browser, served):
    """(page, messages of the console, requests, seconds from the start to the picture of the data and to that of the
    trained networks)."""
    _, address, began = served
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    said, asked = [], []
    page.on("console", lambda message: said.append((message.type, message.text)))
    page.on("pageerror", lambda error: said.append(("error", str(error))))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address, wait_until="commit", timeout=PATIENCE * 1000)
    page.wait_for_selector("img[alt^='Data, signal direction'], table", timeout=PATIENCE * 1000)
    seconds = [time.monotonic() - began]
    page.wait_for_selector("table", timeout=PATIENCE * 1000)
    return page, said, asked, (*seconds, time.monotonic() - began)


def state(page):
    """What the page shows: its numbers, its picture and what it says of them."""
    # Of the picture what is drawn, not its address, which may be the same.
    picture = page.evaluate("""async () => {
        const bytes = await (await fetch(document.querySelector('img[alt^="Regions learnt"]').src)).arrayBuffer();
        const digest = await crypto.subtle.digest('SHA-256', bytes);
        return Array.from(new Uint8Array(digest)).join(' ');
    }""")
    return page.inner_text("table"), picture, page.inner_text("text=Trained 300 epochs")


def moved(page, name, key="ArrowRight"):
    """Move the slider of that label by one step of the keyboard; (state after it, seconds)."""
    before, began = page.inner_text("table"), time.monotonic()
    slider = page.locator(f"marimo-slider:has-text('{name}') [role=slider]")
    slider.focus()
    page.keyboard.press(key)
    changed = "before => document.querySelector('table') && document.querySelector('table').innerText != before"
    page.wait_for_function(changed, arg=before, timeout=PATIENCE * 1000)
    seconds = time.monotonic() - began
    page.wait_for_load_state("networkidle")
    return state(page), seconds


def test_the_page_opens_with_a_picture_and_numbers(opened):
    page, _, _, seconds = opened
    print("picture of the data after {:.1f} s, of the trained networks after {:.1f} s".format(*seconds))
    table, _, _ = state(page)
    assert "robust error" in table
    assert len(re.findall(r"\d\.\d{3}", table)) == 14
    assert page.locator("img[alt^='Regions learnt']").bounding_box()["width"] > 600


@pytest.mark.parametrize("name", ["radius", "margin", "training examples", "sample"])
def test_a_slider_changes_picture_and_numbers_and_compiles_nothing(opened, name):
    page = opened[0]
    before = state(page)
    after, seconds = moved(page, name)
    print(f"{name}: after {seconds:.2f} s; {after[2]}")
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert "nothing was compiled" in after[2]


@pytest.mark.parametrize("label", ["set of perturbations", "defence on the right"])
def test_a_choice_changes_picture_and_numbers_and_compiles_at_most_once(opened, label):
    page = opened[0]
    changed = "before => document.querySelector('table') && document.querySelector('table').innerText != before"
    for index in (3, 1, 3):
        before = state(page)
        page.locator(f"marimo-dropdown:has-text('{label}') select").select_option(index=index)
        page.wait_for_function(changed, arg=before[0], timeout=PATIENCE * 1000)
        page.wait_for_load_state("networkidle")
        after = state(page)
        assert before[1] != after[1]
    assert "nothing was compiled" in after[2]


def test_a_new_dimension_says_that_it_was_compiled(opened):
    page = opened[0]
    after, _ = moved(page, "dimension")
    assert "waited for compiling before" in after[2]
    assert "plane through the origin" in after[2]


def test_the_console_is_clean_and_nothing_else_is_asked(opened, served):
    """Last in this file: of everything above."""
    _, said, asked, _ = opened
    assert not [text for kind, text in said if kind == "error"]
    assert {url for url in asked if not url.startswith((served[1], "data:", "blob:"))} == set()


def test_an_interrupted_explorer_ends_well(served):
    process, address, _ = served
    assert urllib.request.urlopen(address, timeout=PATIENCE).status == 200
    process.send_signal(2)
    assert process.wait(60) in (0, -2)
