"""The page that `siglip serve` shows, in a real browser."""

import json

import pytest

from conftest import DEMO, ROOT, run_siglip

EXAMPLES = ROOT / "data/demo/examples"
SEVEN, CIRCLE, STAR = (EXAMPLES / name for name in ("seven.png", "red_circle.jpg", "blue_star.png"))
LABELS = ["seven", "a blue star", "red circle", "three"]
TEMPLATE = "A picture of {text}."
BARS = "[...document.querySelectorAll('.bars')].map((list) => [...list.children].map((e) => ({...e.dataset})))"


def classified(paths, labels=LABELS, template=TEMPLATE, model=DEMO):
    """{file name: {label: probability}} from the command line."""
    lines = run_siglip("classify", "--model", model, "--labels", ",".join(labels), "--template", template, "--json",
                       *paths).stdout.splitlines()
    return {row["image"].rsplit("/", 1)[1]: {x["label"]: x["probability"] for x in row["labels"]}
            for row in map(json.loads, lines)}


def show_pictures(page, paths=(SEVEN, CIRCLE)):
    page.set("#labels", "\n".join(LABELS))
    page.set("#template", TEMPLATE)
    page.choose_files("#files", paths)
    page.wait(f"document.querySelectorAll('[data-label]').length === {len(paths) * len(LABELS)}")


def assert_bars(page, expected):
    names = page.js("[...document.querySelectorAll('.picture h3')].map((e) => e.textContent)")
    assert sorted(names) == sorted(expected)
    for name, bars in zip(names, page.js(BARS), strict=True):
        shown = {bar["label"]: float(bar["probability"]) for bar in bars}
        # The command writes float32, 6e-8 of the value; the page computes in float64.
        assert shown == pytest.approx(expected[name], rel=1e-6)
        assert list(shown.values()) == sorted(shown.values(), reverse=True)


def test_bars_are_those_of_the_command_line(page):
    show_pictures(page)
    assert_bars(page, classified([SEVEN, CIRCLE]))


def test_other_labels_and_another_template_change_the_bars(page):
    show_pictures(page, [SEVEN])
    page.set("#labels", "four, seven,  ,four\nnine")
    page.set("#template", "{text}")
    page.wait("document.querySelectorAll('[data-label]').length === 3")
    expected = classified([SEVEN], ["four", "seven", "nine"], "{text}")["seven.png"]
    shown = {bar["label"]: float(bar["probability"]) for bar in page.js(BARS)[0]}
    assert shown == pytest.approx(expected, rel=1e-6)


def test_a_label_is_put_in_as_it_is(page):
    labels = ["cash $$", "$&", "$' and $`", "{label}", "{text} x"]
    show_pictures(page, [SEVEN])
    page.set("#labels", "\n".join(labels))
    page.set("#template", "{label}, a {text}")
    page.wait(f"document.querySelectorAll('[data-label]').length === {len(labels)}")
    assert_bars(page, classified([SEVEN], labels, "{label}, a {text}"))


def test_labels_that_are_read_from_the_right_begin_there(page):
    label = "\u05e9\u05dc\u05d5\u05dd!"
    page.set("#labels", f"{label}\nhello!")
    page.choose_files("#files", [SEVEN])
    page.wait("document.querySelectorAll('[data-label]').length === 2")
    left = """(label, i) => {
        const text = [...document.querySelectorAll('.bars .name')].find((e) => e.textContent === label).firstChild;
        const range = new Range();
        range.setStart(text, i);
        range.setEnd(text, i + 1);
        return range.getBoundingClientRect().left;
    }"""
    first, last = (page.js(f"({left})({json.dumps(label)}, {i})") for i in (0, 4))
    assert last < first
    hello, end = (page.js(f"({left})('hello!', {i})") for i in (0, 5))
    assert hello < end and abs(hello - last) < 2  # both begin where all labels do


def test_a_template_without_a_place_for_the_label_is_told(page):
    show_pictures(page, [SEVEN])
    page.set("#template", "A picture.")
    page.wait("document.querySelector('#status').textContent === 'The text around a label needs {text} or {label} in it.'")
    assert page.js("document.querySelectorAll('[data-label]').length") == 0
    page.set("#template", TEMPLATE)
    page.wait(f"document.querySelectorAll('[data-label]').length === {len(LABELS)}")
    assert_bars(page, classified([SEVEN]))


def test_what_the_screen_reader_is_told(page):
    show_pictures(page, [SEVEN])
    page.wait("document.querySelector('#status').textContent.startsWith('seven.png: seven, ')")
    # Every field has a name, every picture an alternative text, and there is one heading of the first level.
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    visible = [node for node in nodes if not node.get("ignored")]
    for role in ("textbox", "button", "tab", "image", "tabpanel", "tablist"):
        names = [node["name"]["value"] for node in visible if node["role"]["value"] == role]
        assert names and all(names), role
    assert page.js("document.querySelectorAll('h1').length") == 1


def test_names_of_models_are_read_as_one_word(page):
    page.size(360)  # where they are broken
    page.click("#tab-server")
    page.wait("document.querySelectorAll('#models tr').length >= 6")
    nodes = [node for node in page.call("Accessibility.getFullAXTree")["nodes"] if not node.get("ignored")]
    for role in ("rowheader", "StaticText"):
        names = [node["name"]["value"] for node in nodes if node["role"]["value"] == role]
        assert {"embed_image", "siglip_vision_process"} <= set(names), role
        assert not [name for name in names if name.startswith("_") or " _" in name]


def test_tabs_by_keyboard(page):
    page.js("document.querySelector('#tab-classify').focus()")
    for key, expected in [("ArrowRight", "compare"), ("End", "server"), ("ArrowRight", "classify"),
                          ("ArrowLeft", "server"), ("Home", "classify"), ("ArrowRight", "compare")]:
        page.press(key)
        assert page.js("document.activeElement.getAttribute('aria-controls')") == expected
        assert page.js("[...document.querySelectorAll('[role=tabpanel]')].filter((e) => !e.hidden).map((e) => e.id)") == [
            expected]
    # From the tab the next stops are the panel's fields, not the other tabs.
    page.press("Tab")
    assert page.js("document.activeElement.id") == "file-a"


def test_embedding_is_the_servers(page):
    show_pictures(page, [SEVEN])
    page.click("details summary")
    page.wait("document.querySelector('details canvas')")
    shown = page.js("Array.from(pictures[0].embedding)")
    lines = run_siglip("embed", "-q", "--model", DEMO, SEVEN).stdout
    assert shown == pytest.approx(json.loads(lines)["embedding"], rel=1e-7)


@pytest.mark.parametrize("host", ["127.0.0.1", "far.test"])
def test_an_embedding_is_copied(browser, server, host):
    browser.log.clear()
    browser.size(1280)
    address = server.replace("127.0.0.1", host)
    browser.open(f"{address}/ui")
    assert browser.js("isSecureContext") is (host == "127.0.0.1")
    show_pictures(browser, [SEVEN])
    browser.click("details summary")
    browser.wait("document.querySelector('details button')")
    browser.js("""addEventListener('copy', (event) => { window.copied = event.target.value; }, true);
                  navigator.clipboard && (navigator.clipboard.writeText = async (text) => { window.copied = text; })""")
    browser.click_as_people_do("document.querySelector('details button')")
    browser.wait("document.querySelector('details button').textContent === 'Copied'")
    assert json.loads(browser.js("window.copied")) == pytest.approx(browser.js("Array.from(pictures[0].embedding)"), rel=1e-7)
    assert browser.js("document.activeElement.textContent") == "Copied"
    assert browser.log == []


def test_two_pictures_are_compared(page):
    page.click("#tab-compare")
    page.choose_files("#file-a", [SEVEN])
    page.choose_files("#file-b", [SEVEN])
    page.wait("document.querySelector('#cosine').textContent !== '–'")
    assert page.js("document.querySelector('#cosine').textContent") == "1.0000"
    page.choose_files("#file-b", [STAR])
    page.wait("document.querySelector('#cosine').textContent !== '1.0000'")
    rows = [json.loads(line)["embedding"] for line in
            run_siglip("embed", "-q", "--normalize", "--model", DEMO, SEVEN, STAR).stdout.splitlines()]
    expected = sum(a * b for a, b in zip(*rows, strict=True))
    assert float(page.js("document.querySelector('#cosine').dataset.cosine")) == pytest.approx(expected, abs=1e-6)


def test_statistics_are_drawn(page):
    page.js("Promise.all(Array.from({length: 8}, () => embedTexts(['a ' + Math.random()])))")
    page.click("#tab-server")
    page.wait("document.querySelectorAll('#models tr').length >= 6")
    page.wait("history_.throughput[0].length > 0")
    show_pictures(page)
    page.wait("history_.throughput[0].some((rate) => rate > 0)")
    page.wait("history_.latency[0].some((ms) => ms > 0)")
    assert "," in page.js("document.querySelector('#chart-throughput polyline').getAttribute('points')")


def test_charts_are_of_the_last_minute_whichever_tab_was_open(page):
    page.wait("before !== null")
    show_pictures(page, [SEVEN])
    page.wait("history_.throughput[0].some((rate) => rate > 0)")
    page.click("#tab-server")
    assert page.js("history_.throughput[0].some((rate) => rate > 0)")
    # One answer alone is a dot.
    page.wait("document.querySelector('#chart-latency polyline').points.length > 0")
    if page.js("history_.latency[0].filter((ms) => ms !== null).length") == 1:
        assert page.js("document.querySelector('#chart-latency polyline').points.length") == 2
    # Seconds that were not seen leave a gap as wide as they were.
    length = page.js("(() => { recorded -= 20000; return history_.throughput[0].length; })()")
    page.wait(f"history_.throughput[0].length > {length} + 19")
    assert page.js("history_.throughput[0].filter((rate) => rate === null).length") in (19, 20, 21)
    page.js("recorded -= 3600000")
    page.wait("history_.throughput[0].filter((rate) => rate === null).length === 59")
    assert page.js("[...history_.latency, ...history_.queue].every((values) => values.length === 60)")
    assert page.js("document.querySelector('#chart-latency polyline').points.length") == 0
    page.wait("document.querySelector('#top-latency').textContent === 'highest –'")


def test_a_model_that_was_loaded_again_counts_from_zero(page):
    assert page.js("""(() => {
        const rows = (count) => new Map([["m", {inference_count: count, inference_stats: {success: {count, ns: count * 2e6},
                                                                                        queue: {count, ns: count * 1e6}}}]]);
        return change({time: 0, rows: rows(100)}, {time: 1000, rows: rows(3)}, "m");
    })()""") == {"rate": 3, "latency": 2, "queue": 1}


def test_a_bad_file_fails_alone(browser, server, tmp_path):
    bad = tmp_path / "bad <b>file.png"
    bad.write_bytes(b"no picture")
    browser.size(1280)
    browser.open(f"{server}/ui")
    browser.choose_files("#files", [bad, SEVEN])
    browser.wait("document.querySelector('.picture .bad')?.textContent.length > 10")
    browser.wait("document.querySelectorAll('[data-label]').length > 0")
    assert browser.js("document.querySelectorAll('#pictures b').length") == 0  # names are text
    assert all("400" in line for line in browser.log), browser.log


def test_heic_is_told_with_what_to_do(browser, server, tmp_path):
    """As an iPhone writes it; by its content, so under any name."""
    browser.size(1280)
    browser.open(f"{server}/ui")
    for name in ("IMG_0001.HEIC", "IMG_0001.jpg"):
        heic = tmp_path / name
        heic.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(1000))
        browser.js("clearPictures()")
        browser.choose_files("#files", [heic])
        browser.wait("document.querySelector('.picture .bad')?.textContent.length > 10")
        for told in (".picture .bad", "#status"):
            text = browser.js(f"document.querySelector('{told}').textContent")
            assert "HEIC" in text and "convert it to JPEG" in text, text
    # Phones convert what they are asked for.
    accepts = browser.js("[...document.querySelectorAll('input[type=file]')].map((e) => e.accept)")
    assert len(accepts) == 4 and all("image/jpeg" in accept and "heic" not in accept for accept in accepts)


def test_each_picture_is_judged_once(page, tmp_path):
    """Not again for every other one: three hundred would be judged 45,000 times."""
    paths = []
    for i in range(40):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(SEVEN.read_bytes() + bytes([i]))
    page.js("window.judged = 0; window.honest = cosine; cosine = (a, b) => { ++judged; return honest(a, b); }")
    page.set("#labels", "\n".join(LABELS))
    page.choose_files("#files", paths)
    page.wait(f"document.querySelectorAll('[data-label]').length === {40 * len(LABELS)}")
    assert page.js("judged") == 40 * len(LABELS)
    # The newest is the one that is told.
    newest = tmp_path / "newest.png"
    newest.write_bytes(SEVEN.read_bytes())
    page.choose_files("#files", [newest])
    page.wait("document.querySelector('#status').textContent.startsWith('newest.png: ')")


def test_pictures_that_were_removed_are_not_sent(page):
    page.js("""window.sent = 0; window.honest = embedImage;
               embedImage = async (blob) => { ++sent; await new Promise((go) => { window.go = go; }); return honest(blob); }""")
    page.choose_files("#files", [SEVEN, CIRCLE, STAR] * 5)
    page.wait("sent === parallel")
    page.click("#clear")
    page.js("go(); new Promise((resolve) => setTimeout(resolve, 500))")
    assert page.js("sent") == 4
    assert page.js("document.querySelector('#status').textContent") == ""
    page.js("embedImage = honest")
    show_pictures(page, [SEVEN])
    assert_bars(page, classified([SEVEN]))


def test_files_are_dropped_and_pasted_and_text_stays_with_its_field(page):
    page.js("""(() => {
        window.act = (target, type, items) => {
            const data = new DataTransfer();
            for (const item of items) typeof item === "string" ? data.setData("text/plain", item) : data.items.add(item);
            const event = type === "paste" ? new ClipboardEvent(type, {clipboardData: data, bubbles: true, cancelable: true})
                : new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true});
            document.querySelector(target).dispatchEvent(event);
            return event.defaultPrevented;
        };
        sample();
    })()""")
    page.wait("pictures.length === 1 && pictures[0].ranked")
    files = "[pictures[0].blob, new File([pictures[0].blob], 'other.png')]"
    for deed in ("dragover", "drop", "paste"):
        assert not page.js(f"act('#labels', '{deed}', ['a label'])"), deed
        assert not page.js("document.body.classList.contains('dragging')")
    assert page.js("act('#labels', 'dragover', [pictures[0].blob]) && document.body.classList.contains('dragging')")
    assert page.js(f"act('#labels', 'drop', {files})")
    page.wait("pictures.length === 3 && pictures.every((picture) => picture.ranked)")
    assert not page.js("document.body.classList.contains('dragging')")
    assert page.js("act('#labels', 'paste', [pictures[0].blob])")
    page.wait("pictures.length === 4 && pictures.every((picture) => picture.ranked)")
    page.click("#tab-compare")
    assert page.js(f"act('body', 'drop', {files})")
    page.wait("document.querySelector('#cosine').textContent === '1.0000'")


def test_a_picture_that_was_replaced_says_nothing_more(page):
    page.click("#tab-compare")
    page.js("""(() => {
        const embed = embedImage;
        window.embedImage = (blob) => (blob.name === "slow.png" ? new Promise((_, reject) => { window.fail = reject; }) : embed(blob));
        setSide("a", new File(["x"], "slow.png"));
    })()""")
    page.choose_files("#file-a", [SEVEN])
    page.choose_files("#file-b", [SEVEN])
    page.wait("document.querySelector('#cosine').textContent === '1.0000'")
    page.js("new Promise((resolve) => { fail(new Error('too late')); setTimeout(resolve, 100); })")
    assert page.js("document.querySelector('#name-a').textContent") == SEVEN.name
    assert page.js("document.querySelector('#cosine').textContent") == "1.0000"


def test_a_file_that_cannot_be_read_is_told_from_a_server_that_is_gone(browser, server, tmp_path):
    """What a dropped folder is, too."""
    picture = tmp_path / "gone.png"
    picture.write_bytes(SEVEN.read_bytes())
    browser.size(1280)
    browser.open(f"{server}/ui")
    browser.click("#tab-compare")
    browser.choose_files("#file-a", [picture])
    browser.wait("sides.a?.embedding")
    picture.unlink()
    browser.js("void addPictures([sides.a.blob])")
    browser.wait("document.querySelector('.picture .bad')?.textContent.length > 10")
    assert "cannot be read" in browser.js("document.querySelector('.picture .bad').textContent")


@pytest.mark.parametrize("tab", ["classify", "compare", "search", "server"])
@pytest.mark.parametrize("width", [1280, 375, 360])
def test_nothing_is_wider_than_the_window(page, tab, width):
    page.size(width, 800)
    show_pictures(page, [SEVEN])
    page.set("#labels", "\n".join([*LABELS, "a" * 80]))
    page.wait(f"document.querySelectorAll('[data-label]').length === {len(LABELS) + 1}")
    page.click("details summary")
    page.click(f"#tab-{tab}")
    assert page.js("document.documentElement.scrollWidth") <= width


# Relative luminance and contrast as WCAG 2 defines them, of every text against what is painted behind it.
CONTRASTS = """
(() => {
  const parse = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('body *')].filter((e) => e.offsetParent && [...e.childNodes]
    .some((n) => n.nodeType === 3 && n.textContent.trim())).map((e) => {
    const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(behind(e))].sort((x, y) => y - x);
    return [(a + .05) / (b + .05), e.tagName + ' ' + e.textContent.slice(0, 30)];
  });
})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast(page, dark):
    page.size(1280, dark=dark)
    show_pictures(page, [SEVEN])
    for tab in ("classify", "compare", "search", "server"):
        page.click(f"#tab-{tab}")
        found = page.js(CONTRASTS)
        assert len(found) > 5
        assert [row for row in found if row[0] < 4.5] == []


def test_a_restricted_server_asks_for_its_key(browser, start):
    address = start("--http-restricted-api", "inference:secret=open")
    browser.call("Page.navigate", url=f"{address}/ui")
    browser.wait("document.querySelector('#key')?.open")
    assert browser.js("document.querySelector('#key-header').textContent") == "secret"
    browser.set("#key-value", "open")
    browser.click("#key button.main")
    browser.wait("document.body.dataset.ready === 'yes'")
    browser.choose_files("#files", [SEVEN])
    browser.wait("document.querySelectorAll('[data-label]').length > 0")


def test_a_key_that_is_not_given_is_not_asked_for_each_second(browser, start):
    address = start("--http-restricted-api", "statistics:secret=open")
    browser.open(f"{address}/ui")
    browser.click("#tab-server")
    browser.wait("document.querySelector('#key').open")
    assert browser.js("document.querySelector('#key-wrong').hidden")
    browser.set("#key-value", "wrong")
    browser.click("#key button.main")
    browser.wait("document.querySelector('#key').open && !document.querySelector('#key-wrong').hidden")
    browser.press("Escape")
    browser.wait("!document.querySelector('#key').open")
    browser.wait("document.querySelector('#server-error').textContent.startsWith('No statistics')")
    browser.js("new Promise((resolve) => setTimeout(resolve, 2500))")
    assert not browser.js("document.querySelector('#key').open")
    browser.click("#tab-compare")
    browser.click("#tab-server")
    browser.wait("document.querySelector('#key').open")
    browser.set("#key-value", "open")
    browser.click("#key button.main")
    browser.wait("document.querySelectorAll('#models tr').length >= 6")


def test_screenshots(page, screenshots):
    """Not compared with anything: for people to look at."""
    for width, height in ((1280, 900), (375, 812)):
        for dark in (False, True):
            page.size(width, height, dark)
            page.js("clearPictures()")
            show_pictures(page, [SEVEN, CIRCLE])
            page.click("details summary")
            for tab in ("classify", "compare", "search", "server"):
                page.click(f"#tab-{tab}")
                if tab == "compare":
                    page.choose_files("#file-a", [SEVEN])
                    page.choose_files("#file-b", [STAR])
                    page.wait("document.querySelector('#cosine').textContent !== '–'")
                if tab == "search":
                    page.js("document.querySelector('#hits').replaceChildren()")
                    page.set("#query", "a photo of three")
                    page.click("#search-form button")
                    page.wait("document.querySelectorAll('#hits img').length === 24")
                    page.wait("[...document.querySelectorAll('#hits img')].every((e) => e.naturalWidth > 0)")
                page.screenshot(screenshots / f"{tab}-{width}{'-dark' if dark else ''}.png")
