"""The simulator's page in a real browser: open, pick, play, press, compare, offline, keyboard, error page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_data import tiny_rows, write_rows

from pocketrec import Recommender
from pocketrec_tools.simulate import simulate
from pocketrec_tools.simulate_desk import Desk
from pocketrec_tools.simulate_screenshots import (
    browser_page,
    feed,
    find_browser,
    open_page,
    pick,
    play,
    press,
    ranked,
    served,
    take,
)
from pocketrec_tools.simulate_server import PageServer
from pocketrec_tools.simulate_settings import Settings
from support import require_package
from tiny_bundle import ITEMS, item_id, write_tiny_bundle

pytestmark = pytest.mark.slow
NASTY = '<img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_package("playwright")
    if find_browser() is None:
        pytest.skip("there is no Chromium; Debian: apt-get install chromium")
    root = tmp_path_factory.mktemp("browser")
    display = {
        "title": [NASTY if position % 2 else f"Title {position}" for position in range(ITEMS)],
        "categories": [f"cat {position % 5}" for position in range(ITEMS)],
    }
    write_tiny_bundle(root / "a", display=display)
    write_tiny_bundle(root / "b", seed=1, display=display)
    write_rows(root / "data", [row for row in tiny_rows(8) if row[0].startswith("u")])
    settings = Settings(engine="numpy")
    simulate(
        root / "a", root / "data", root / "run", against=[root / "b"], settings=settings, processes=1,
        progress=False,
    )  # fmt: skip
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[PageServer]:
    with served(Desk.open(root / "run", None, [])) as server:
        yield server


def test_a_walk_through_the_page(root: Path, server: PageServer) -> None:
    with browser_page() as page:
        broken: list[str] = []
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.on("console", lambda message: broken.append(message.text) if message.type == "error" else None)
        elsewhere: list[str] = []
        page.on("request", lambda request: elsewhere.append(request.url))

        open_page(page, server.url)
        assert "token" not in page.url
        popular = feed(page)
        assert len(popular) == 10
        assert page.locator(".why").first.text_content() == "popular: nothing known yet"

        pick(page, 1)
        play(page, 3)
        assert page.locator("#events li").count() == 3
        assert page.locator(".hit, .miss").count() == 3
        data = server.desk.user(1)["events"]
        with Recommender.open(root / "a", engine="numpy") as recommender:
            own = [(e["item_id"], e["event"], e["time"]) for e in data[:3]]
            assert feed(page) == [r.item_id for r in recommender.rank(own)]
            assert "near " in str(page.locator(".why").first.text_content())

            before = feed(page)
            press(page, 2)
            assert feed(page) != before
            assert before[2] not in feed(page)
            pressed = [*own, (before[2], "", own[-1][2] + 60)]
            assert feed(page) == [r.item_id for r in recommender.rank(pressed)]

            # What if the first event had not been; the newest is drawn first.
            page.locator("#events li button").last.click()
            page.wait_for_function("() => document.querySelectorAll('#events li').length === 3")
            ranked(page)
            assert feed(page) == [r.item_id for r in recommender.rank(pressed[1:])]

            # A clock before all events makes it an empty phone.
            page.locator("#clock").fill("1999-01-01T00:00:00")
            page.locator("#clock").dispatch_event("change")
            page.wait_for_function("() => document.querySelector('#events li.later') !== null")
            page.wait_for_function("() => document.querySelector('.why').textContent.startsWith('popular')")
            page.locator("#clock-now").click()
            page.wait_for_function("() => document.querySelector('.why').textContent.startsWith('near')")

            page.locator("#other").select_option("1")
            page.wait_for_function("() => document.querySelectorAll('.phone').length === 2")
            with Recommender.open(root / "b", engine="numpy") as second:
                assert feed(page, 1) == [r.item_id for r in second.rank(pressed[1:])]
            assert "only here" in str(page.locator(".phone").first.text_content())

        page.locator("#offline").check()
        page.wait_for_function(
            "() => document.querySelector('.net').textContent === 'offline, 0 calls tried'"
        )
        assert page.locator("#plots img").count() == len(server.desk.info()["plots"]) >= 5
        page.locator("#plots img").first.scroll_into_view_if_needed()
        page.wait_for_function("() => document.querySelector('#plots img').naturalWidth > 0")
        assert page.title() == "Phones · pocketrec"  # no title of an item became markup
        assert NASTY in str(page.locator("#phones").text_content())
        assert not broken
        assert all(url.startswith(f"http://127.0.0.1:{server.port}/") for url in elsewhere)


def test_everything_from_the_keyboard_narrow_and_dark(server: PageServer) -> None:
    with browser_page(width=390, height=780, dark=True) as page:
        open_page(page, server.url)
        page.keyboard.press("/")
        page.keyboard.type("u1")
        page.wait_for_function("() => document.querySelectorAll('#people button').length === 1")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('who').textContent.startsWith('u1, 0 of')")
        ranked(page)
        page.locator("#phones").focus()
        page.keyboard.press("n")
        page.wait_for_function("() => document.getElementById('who').textContent.includes(', 1 of')")
        ranked(page)
        page.locator("#phones").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")
        second = feed(page)[1]
        assert page.evaluate("() => document.activeElement.dataset.item") == second
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelectorAll('#events li').length === 2")
        ranked(page)
        assert second not in feed(page)
        page.keyboard.press("d")
        page.wait_for_function("() => document.querySelectorAll('#events li').length >= 3")
        page.wait_for_function("() => document.getElementById('play').textContent.startsWith('Play')")
        assert "Ranked again" in str(page.locator("#live").text_content())
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
        dark = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert dark == "rgb(18, 21, 24)"
        unnamed = page.evaluate(
            "() => [...document.querySelectorAll('button, input, select, img, section')].filter((node) =>"
            " !(node.textContent.trim() || node.labels?.length || node.getAttribute('aria-label')"
            " || node.alt)).map((node) => node.outerHTML)"
        )
        assert unnamed == []


def test_a_stranger_gets_an_error_page(server: PageServer) -> None:
    with browser_page() as page:
        answer = page.goto(f"http://127.0.0.1:{server.port}/?token=guessed")
        assert answer is not None
        assert answer.status == 403
        assert "open the address" in str(page.get_by_role("alert").text_content())
        open_page(page, server.url)
        answer = page.goto(f"http://127.0.0.1:{server.port}/%3Cscript%3E")
        assert answer is not None
        assert answer.status == 404
        page.get_by_text("Back to the phones").click()
        ranked(page)
        # The page says so when a call fails, and goes on.
        page.evaluate("() => { window.fetch = () => Promise.reject(new Error('gone')); }")
        page.locator("#offline").check()
        page.wait_for_function("() => !document.getElementById('error').hidden")
        assert "still running" in str(page.locator("#error").text_content())


def test_the_pictures_of_the_docs(root: Path, tmp_path: Path) -> None:
    made = take(Desk.open(root / "run", None, []), tmp_path / "pictures", person=0, events=2)
    assert [file.name for file in made] == [
        "simulate-phone.png",
        "simulate-compare.png",
        "simulate-error.png",
        "simulate-narrow-dark.png",
    ]
    assert all(file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 1000 for file in made)


def test_the_report_stands_alone(root: Path) -> None:
    with browser_page(dark=True) as page:
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto((root / "run" / "report.html").as_uri())
        assert len(requests) == 1
        assert page.locator("svg[role=img]").count() == len(list((root / "run" / "plots").glob("*.svg")))
        ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((node) => node.id)")
        assert len(ids) == len(set(ids))
        assert page.locator("svg").first.bounding_box() is not None
        assert item_id(0) not in str(page.content())
