"""Searching an embedded folder in the page."""

import json
import urllib.error
import urllib.request

import pytest

from conftest import DEMO, ROOT, run_siglip

HITS = "[...document.querySelectorAll('#hits > li')].map((e) => ({...e.dataset}))"


def found(index, *query, model=DEMO):
    done = run_siglip("search", "--model", model, index, *query, "--top", "24")
    return [(hit["name"], pytest.approx(hit["score"], rel=1e-6)) for hit in json.loads(done.stdout)["hits"]]


def shown(page):
    page.wait("document.querySelectorAll('#hits > li').length === 24")
    return [(hit["name"], float(hit["score"])) for hit in page.js(HITS)]


def test_text_finds_what_the_command_line_finds(page, index):
    page.click("#tab-search")
    page.set("#query", "a photo of three")
    page.js("document.querySelector('#query').focus()")
    page.press("Enter", text="\r")
    assert shown(page) == found(index, "--text", "a photo of three")
    page.wait("document.querySelector('#search-status').textContent.startsWith('The 24 nearest')")
    page.wait("[...document.querySelectorAll('#hits img')].every((e) => e.naturalWidth > 0)")


def test_a_picture_and_more_like_it(page, index):
    page.click("#tab-search")
    seven = ROOT / "data/demo/examples/seven.png"
    page.choose_files("#file-search", [seven])
    first = shown(page)
    assert first == found(index, "--image", seven)
    page.wait("document.querySelectorAll('#hits img')[2].naturalWidth > 0")
    page.click("#hits > li:nth-child(3) button")
    page.wait(f"document.querySelector('#hits > li').dataset.name === {json.dumps(first[2][0])}")
    assert shown(page)[0] == (first[2][0], pytest.approx(1, abs=1e-9))


def test_pictures_by_row_alone(server):
    def status(path):
        try:
            with urllib.request.urlopen(server + path) as answer:
                return answer.status, answer.headers["Content-Type"]
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"]

    assert status("/ui/picture/0") == (200, "image/jpeg")
    for path in ("/ui/picture/100", "/ui/picture/-1", "/ui/picture/../../etc/passwd", "/ui/picture/..%2f..%2frun"):
        assert status(path) == (404, "application/json")


def test_a_root_elsewhere_shows_names_alone(browser, start, index, tmp_path):
    address = start("--search-index", str(index), "--search-root", str(tmp_path))
    browser.open(f"{address}/ui#search")
    browser.set("#query", "seven")
    browser.click("#search-form button")
    assert len(shown(browser)) == 24
    browser.wait("[...document.querySelectorAll('#hits img')].every((e) => e.alt.includes('not shown'))")


def test_without_an_index_the_page_says_how(browser, start):
    address = start()
    browser.open(f"{address}/ui#search")
    assert browser.js("document.querySelector('#search-off').innerText.includes('--search-index')")
    assert browser.js("document.querySelector('#search-on').hidden")
