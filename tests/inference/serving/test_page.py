"""The page in a real browser: by keyboard alone, on a phone and a wide screen, with file names that are meant to be code."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from albef_ds.inference.model import AlbefModel
from docs.tools.browser import Browser, Page, chromium
from tests.inference.serving.conftest import NUMBER, photos_in
from tests.inference.serving.served import Served, serving
from tests.inference.tiny_models import picture

pytestmark = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed (make browser)")

Models = tuple[AlbefModel, AlbefModel]
CODE = "<img src=x onerror=alert(1)>&amp;.png"
HITS = "document.querySelectorAll('#hits li').length"
FOCUS = "(document.activeElement.ariaLabel || document.activeElement.textContent || document.activeElement.id)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium()
    assert program
    with Browser(program) as started:
        yield started


@pytest.fixture(scope="module")
def running(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With file names of code and of bytes that are no UTF-8."""
    pytest.importorskip("fastapi")
    photos = photos_in(tmp_path_factory.mktemp("page"))
    picture(20).save(photos / CODE)
    (photos / "bro<b>ken.png").write_bytes(b"")
    with open(bytes(photos) + b"/caf\xe9.png", "wb") as file:
        picture(21).save(file, "PNG")
    with serving(models[0], photos, answering=models[1]) as server:
        yield server


@pytest.fixture(params=[360, 1440])
def page(request: pytest.FixtureRequest, browser: Browser, running: Served) -> Iterator[Page]:
    """The page, narrow and wide; without an error and without anything to scroll sideways at the end."""
    with browser.page(request.param, 900) as opened:
        opened.open(running.address)
        opened.wait("document.getElementById('state').textContent.startsWith('8 images')")
        yield opened
        assert opened.problems() == []
        assert opened.value("document.documentElement.scrollWidth") <= request.param


def tab_to(page: Page, words: str, *, shift: bool = False) -> None:
    """Press Tab until the focus is on something with `words` in its name."""
    seen = []
    for _ in range(60):
        page.press("Tab", shift=shift)
        seen.append(page.value(FOCUS))
        if words in seen[-1]:
            return
    raise AssertionError(f"Tab does not lead to {words}: {seen}")


def test_everything_is_done_by_keyboard(page: Page) -> None:
    assert page.value("document.activeElement.id") == "words"
    page.type("a red cup")
    page.press("Enter")
    page.wait(f"{HITS} === 8")
    first = page.value("document.querySelector('#hits .score').textContent")
    assert "match\u00a0" in first, "it stays on one line with its number"
    page.value("document.getElementById('words').select()")
    page.type("two dogs")
    tab_to(page, "without these words")
    page.press("Enter")
    assert page.value("document.activeElement.id") == "words"
    assert page.value("document.querySelector('#terms li').className") == "unwanted"
    page.type("a red cup")
    page.press("Enter")
    page.wait("document.querySelector('#hits .score') && document.getElementById('summary').textContent.includes('of 8 images')")
    page.wait(f"document.querySelector('#hits .score').textContent !== {first!r}")
    tab_to(page, "unwanted: two dogs")
    page.press(" ")
    assert page.value("document.querySelector('#terms li').className") == "" and "wanted: two dogs" in page.value(FOCUS)
    tab_to(page, "leave out two dogs")
    page.press("Enter")
    assert page.value("document.querySelectorAll('#terms li').length") == 0
    tab_to(page, ".png")
    opened = page.value("document.activeElement.dataset.picture")
    page.press("Enter")
    page.wait("document.getElementById('viewer').open && document.activeElement.id === 'place'")
    assert page.value("document.getElementById('place').value") == "a red cup"
    page.press("Enter")
    page.wait("document.querySelectorAll('#maps li').length === 4")
    page.wait("document.getElementById('large').src.startsWith('data:image/jpeg')")
    page.wait("document.getElementById('large').naturalWidth === 40")
    tab_to(page, "cup")
    page.press("Enter")
    assert page.value("document.getElementById('caption').textContent").endswith("“cup”") or "cup" in page.value(FOCUS)
    page.value("document.getElementById('question').focus()")
    page.type("what is red")
    page.press("Enter")
    page.wait("document.querySelectorAll('#answers li').length > 0")
    page.press("Escape")
    page.wait("!document.getElementById('viewer').open")
    assert page.value("document.activeElement.dataset.picture") == opened


def test_a_dropped_and_a_chosen_image_are_searched_for(page: Page, running: Served) -> None:
    content = base64.b64encode((running.photos / "3.png").read_bytes()).decode()
    page.value(
        f"""(() => {{ const bytes = Uint8Array.from(atob({content!r}), (mark) => mark.charCodeAt(0));
        const data = new DataTransfer(); data.items.add(new File([bytes], "dropped.png", {{ type: "image/png" }}));
        document.body.dispatchEvent(new DragEvent("drop", {{ dataTransfer: data, bubbles: true, cancelable: true }})); }})()"""
    )
    page.wait("document.querySelector('#hits .name')?.textContent === '3.png'")
    assert page.value("document.querySelector('#terms span').textContent") == "dropped.png"
    page.value("document.querySelector('#terms li').lastChild.click()")
    page.choose_file("#file", running.photos / "trip" / "wide.jpg")
    page.wait("document.querySelector('#hits .name').textContent === 'trip/wide.jpg'")
    page.value("document.querySelector('#hits button').click()")
    page.value("document.getElementById('unlike').click()")
    page.wait("document.getElementById('message').textContent.includes('cancel')")


def test_an_upload_that_is_no_image_is_one_line_on_the_page(browser: Browser, running: Served, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not an image")
    with browser.page(1440) as page:
        page.open(running.address)
        page.choose_file("#file", tmp_path / "notes.png")
        page.wait("document.getElementById('message').textContent.includes('not a usable image')")


def test_file_names_are_text(page: Page) -> None:
    page.type("a cup")
    page.press("Enter")
    page.wait(f"{HITS} === 8")
    names = page.value("[...document.querySelectorAll('#hits .name')].map((name) => name.textContent)")
    assert CODE in names and "caf\N{REPLACEMENT CHARACTER}.png" in names
    assert "bro<b>ken.png" in page.value("document.getElementById('broken').textContent")
    assert page.value("document.querySelectorAll('#hits img[src=x], #broken b').length") == 0
    page.wait("[...document.querySelectorAll('#hits img')].every((image) => image.complete ? image.naturalWidth : image.loading)")


def test_new_files_appear_in_the_shown_search(browser: Browser, models: Models, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    photos = photos_in(tmp_path)
    with serving(models[0], photos) as server, browser.page(1440) as page:
        page.open(server.address)
        page.wait("document.getElementById('state').textContent.startsWith('6 images')")
        page.wait("document.getElementById('ask').hidden")
        page.type("a cup")
        page.press("Enter")
        page.wait(f"{HITS} === {NUMBER}")
        page.value("document.querySelector('#hits button').click()")
        assert page.value("document.getElementById('place').getClientRects().length") == 1
        assert page.value("document.getElementById('question').getClientRects().length") == 0  # no model that answers
        picture(60).save(photos / "later.png")
        page.wait(f"{HITS} === {NUMBER + 1}")
        assert page.problems() == []


def test_the_reference_page_has_its_style(browser: Browser, running: Served) -> None:
    with browser.page(360) as page:
        page.open(f"{running.address}api")
        assert page.value("document.querySelectorAll('h2').length") == 6 and page.problems() == []
        assert page.value("getComputedStyle(document.querySelector('table')).borderCollapse") == "collapse"
        assert page.value("document.documentElement.scrollWidth") <= 360


def test_another_page_cannot_put_the_page_into_a_frame(browser: Browser, running: Served, tmp_path: Path) -> None:
    (tmp_path / "evil.html").write_text(
        f"<iframe src='{running.address}'></iframe><img src='{running.address}api/pictures/{running.key('0.png')}'>"
    )
    with browser.page(1440) as page:
        page.open((tmp_path / "evil.html").as_uri())
        page.wait("document.querySelector('img').complete")
        assert page.value("document.querySelector('img').naturalWidth") == 0
        read = f"fetch('{running.address}api/search', {{method: 'POST', body: '{{}}'}}).then(() => 'read', () => 'refused')"
        assert page.value(read) == "refused"
