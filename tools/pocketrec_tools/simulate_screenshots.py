"""Pictures of the simulator's page for the docs, taken in the system's Chromium by Playwright.

    python -m pocketrec_tools.simulate_screenshots RUN --out docs/images

The same walk is what the tests check: open, pick a person, play, press an item, compare, go offline, turn the
clock, remove an event, look at the plots. It fails where the page does not do what it should.
"""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pocketrec.errors import PocketrecError
from pocketrec.output import note
from pocketrec_tools.simulate_desk import Desk
from pocketrec_tools.simulate_server import PageServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COLOURS = 128
WAIT_MS = 60_000.0
"""Long, for a busy machine; nothing waits longer than it has to."""


def find_browser() -> str | None:
    """The path of a Chromium of the system, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def served(desk: Desk) -> Iterator[PageServer]:
    """The page of a desk, served by a thread of this process."""
    server = PageServer(desk)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


@contextmanager
def browser_page(*, width: int = 1180, height: int = 700, dark: bool = False) -> Iterator[Page]:
    """An empty page of a headless Chromium that reaches nothing but this machine.

    Raises:
        PocketrecError: `browser-missing`.
    """
    from playwright.sync_api import sync_playwright

    found = find_browser()
    if found is None:
        raise PocketrecError(
            "there is no Chromium here.", code="browser-missing", remedy="Debian: apt-get install chromium."
        )
    # --no-sandbox: a container's root has no sandbox; the page is ours. The proxy leads nowhere.
    arguments = ["--no-sandbox", "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=127.0.0.1"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        try:
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
            )
            page.set_default_timeout(WAIT_MS)
            yield page
        finally:
            browser.close()


def feed(page: Page, phone: int = 0) -> list[str]:
    """The item ids of a phone's list, in order."""
    items = page.locator(".phone").nth(phone).locator(".feed button")
    return [str(item.get_attribute("data-item")) for item in items.all()]


def ranked(page: Page) -> None:
    """Wait for the list that belongs to what was done last."""
    page.wait_for_function("() => document.querySelectorAll('.feed button').length > 0")
    page.wait_for_load_state("networkidle")


def open_page(page: Page, url: str) -> None:
    """Open the page, and wait for its first list."""
    page.goto(url)
    ranked(page)


def pick(page: Page, place: int) -> None:
    """Pick a person by place in the list, and wait for the empty phone's list."""
    page.locator("#people button").nth(place).click()
    page.wait_for_function("() => document.getElementById('who').textContent.includes(', 0 of')")
    ranked(page)


def play(page: Page, events: int) -> None:
    """Play so many of the person's own events."""
    for count in range(1, events + 1):
        page.locator("#next").click()
        page.wait_for_function(f"() => document.getElementById('who').textContent.includes(', {count} of')")
        ranked(page)


def press(page: Page, place: int) -> None:
    """Press an item of the first phone's list; it goes into the history."""
    before = page.locator("#events li").count()
    page.locator(".feed button").nth(place).click()
    page.wait_for_function(f"() => document.querySelectorAll('#events li').length === {before + 1}")
    ranked(page)


def take(desk: Desk, out: Path, person: int = 1, events: int = 3) -> list[Path]:
    """Take the pictures of the docs; returns their files. The desk is closed afterwards."""
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    made = []

    def shoot(page: Page, name: str) -> None:
        file = out / f"simulate-{name}.png"
        picture = Image.open(io.BytesIO(page.screenshot()))
        picture.convert("RGB").quantize(COLOURS).save(file, optimize=True)  # a fifth of the bytes
        made.append(file)

    with served(desk) as server:
        with browser_page() as page:
            open_page(page, server.url)
            pick(page, person)
            play(page, events)
            shoot(page, "phone")
            if len(desk.phones) > 1:
                page.locator("#other").select_option("1")
                page.wait_for_function("() => document.querySelectorAll('.phone').length === 2")
                page.locator("#offline").check()
                page.wait_for_function("() => document.querySelector('.net').textContent.includes('offline')")
                shoot(page, "compare")
            page.set_viewport_size({"width": 700, "height": 300})
            page.goto(server.url.replace("?token=", "nothing?token="))
            shoot(page, "error")
        with browser_page(width=400, height=800, dark=True) as page:
            open_page(page, server.url)
            pick(page, person)
            play(page, 1)
            page.locator(".phone").first.evaluate("node => node.scrollIntoView()")
            shoot(page, "narrow-dark")
    return made


def main(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the pictures go.")],
    person: Annotated[int, typer.Option("--person", min=0, help="Which person in the list.")] = 1,
    events: Annotated[int, typer.Option("--events", min=1, help="How many events to play.")] = 3,
) -> None:
    """Take the pictures of the docs."""
    for file in take(Desk.open(run, None, []), out, person, events):
        note(f"{file}  {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    typer.run(main)
