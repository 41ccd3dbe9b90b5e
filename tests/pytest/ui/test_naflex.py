"""The page of a server with a NaFlex checkpoint, which searches an approximate index of its rows."""

from conftest import ROOT, embed_five_classes, run_siglip
from test_page import SEVEN, assert_bars, classified, show_pictures
from test_search import found, shown

import pytest

NAFLEX = ROOT / "tests/golden/naflex"
WIDE = ROOT / "data/demo/examples/blue_star.png"


@pytest.fixture(name="graph", scope="module")
def graph_fixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("naflex")
    run_siglip("index", "-q", embed_five_classes(NAFLEX, folder), "-o", folder / "pictures.index")
    return folder / "pictures.index"


@pytest.fixture(name="naflex", scope="module")
def naflex_fixture(browser, start, graph):
    return f"{start('--search-index', str(graph), model=NAFLEX)}/ui"


def test_bars_are_those_of_the_command_line(browser, naflex):
    browser.log.clear()
    browser.open(naflex)
    show_pictures(browser, [SEVEN, WIDE])
    assert_bars(browser, classified([SEVEN, WIDE], model=NAFLEX))
    assert browser.log == []


def test_what_is_searched_is_the_index(browser, naflex, graph):
    browser.log.clear()
    browser.open(f"{naflex}#search")
    browser.choose_files("#file-search", [SEVEN])
    assert shown(browser) == found(graph, "--image", SEVEN, model=NAFLEX)
    browser.set("#query", "a red circle")
    browser.click("#search-form button")
    expected = found(graph, "--text", "a red circle", model=NAFLEX)
    browser.wait(f"document.querySelector('#hits > li').dataset.name === '{expected[0][0]}'")
    assert shown(browser) == expected
    assert browser.log == []
