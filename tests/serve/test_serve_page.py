"""The page in a real Chromium: dropping, pasting and choosing images, both languages, a narrow screen."""

import base64
import re
import shutil

import pytest
from services import CHECKPOINT, PROGRAM, need_packages, picture, png_bomb, running

need_packages()
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

DROP = """([name, type, text]) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), given = new DataTransfer();
  if (name) given.items.add(new File([bytes], name, {type}));
  const event = (kind) => new DragEvent(kind, {dataTransfer: given, bubbles: true, cancelable: true});
  document.dispatchEvent(event("dragover"));
  document.dispatchEvent(event("drop"));
}"""
PASTE = """([name, type, text]) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), given = new DataTransfer();
  given.items.add(new File([bytes], name, {type}));
  document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: given, bubbles: true}));
}"""
FLASHY = "() => new Set(document.getElementById('overlay').getContext('2d').getImageData(0, 0, 90, 90).data).size"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium to look at the page with: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture(scope="module")
def with_field(predictor):
    from ppreplk.deploy.inference_yml import read_description
    from ppreplk.serve.field import ReceptiveField
    from ppreplk.serve.limits import Limits

    field = ReceptiveField(str(CHECKPOINT), read_description(PROGRAM).transforms)
    info = {"classes": 3, "image_shape": [3, 32, 32]}
    with running(predictor, Limits(bytes=300_000, pixels=1_000_000), info=info, field=field) as service:
        yield service


@pytest.fixture
def open_page(browser, with_field):
    """Opens the page. At the end, nothing may have gone wrong, and nothing been asked elsewhere."""
    opened, problems, asked = [], [], []

    def open_(language: str = "en-US", width: int = 1000, expected: str = "^$"):
        context = browser.new_context(locale=language, viewport={"width": width, "height": 740})
        page = context.new_page()
        page.on("console", lambda message: problems.append((expected, f"{message.type}: {message.text}")))
        page.on("pageerror", lambda error: problems.append((expected, str(error))))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(with_field.url)
        wait_until(page, lambda: page.text_content("#about"))
        opened.append(context)
        return page

    yield open_
    for context in opened:
        context.close()
    assert not [text for expected, text in problems if not re.search(expected, text)]
    assert not [url for url in asked if not url.startswith((with_field.url, f"blob:{with_field.url}", "data:image/"))]


def wait_until(page, holds) -> None:
    """Playwright's own way would have the page evaluate a text, which its policy forbids."""
    for _ in range(200):
        if holds():
            return
        page.wait_for_timeout(50)
    assert holds()


def file(seed: int = 0, name: str = "picture.png", data: bytes | None = None) -> list[str]:
    return [name, "image/png", base64.b64encode(data or picture(seed)).decode()]


def bars(page) -> list[str]:
    page.wait_for_selector("#bars li")
    return page.locator("#bars .label span:first-child").all_text_contents()


def test_an_image_that_is_dropped_gets_its_bars(open_page, predictor):
    page = open_page()
    page.evaluate(DROP, file())
    (expected,) = predictor(picture(), topk=5)
    assert bars(page) == expected.label_names
    shown = page.locator("#bars .label span:last-child").all_text_contents()
    assert shown == [f"{100 * score:.1f}%" for score in expected.scores]
    assert re.fullmatch(r"Answered in \d+ ms", page.text_content("#message"))
    assert page.text_content("#name") == "picture.png"
    page.wait_for_timeout(500)  # the bars grow
    widths = [float(each.bounding_box()["width"]) for each in page.locator(".track div").all()]
    full = page.locator(".track").first.bounding_box()["width"]
    assert widths[0] == pytest.approx(full * expected.scores[0], abs=3)


def test_pasting_and_choosing(open_page, predictor, tmp_path):
    page = open_page()
    choosers: list = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))  # early: the browser takes its time to hear of it
    page.evaluate(PASTE, file(1))
    assert bars(page) == predictor(picture(1), topk=5)[0].label_names
    (tmp_path / "chosen.png").write_bytes(picture(2))
    page.focus("#language")
    page.keyboard.press("Tab")
    wait_until(page, lambda: page.evaluate("document.activeElement.id") == "choose")
    page.keyboard.press("Enter")
    wait_until(page, lambda: choosers)
    choosers[0].set_files(tmp_path / "chosen.png")
    wait_until(page, lambda: page.text_content("#name") == "chosen.png")
    wait_until(page, lambda: page.get_attribute("#bars", "aria-busy") == "false")
    assert bars(page) == predictor(picture(2), topk=5)[0].label_names


def test_the_language_is_the_browsers_and_can_be_switched(open_page):
    page = open_page("zh-CN")
    assert page.get_attribute("html", "lang") == "zh-CN"
    assert page.text_content("#choose") == "选择图片"
    page.evaluate(DROP, file())
    bars(page)
    assert "用时" in page.text_content("#message")
    page.click("#language")
    assert page.get_attribute("html", "lang") == "en"
    assert page.text_content("#choose") == "Choose another image"
    assert "Answered" in page.text_content("#message")
    assert page.text_content("#language") == "中文"
    page.reload()
    assert page.text_content("#choose") == "Choose an image"


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_a_narrow_screen(open_page, language):
    page = open_page(language, 360)
    page.evaluate(DROP, file(name="a_rather_long_name_without_any_place_to_break_it_" * 3 + ".png"))
    bars(page)
    page.click("#measure")
    page.wait_for_selector("#tools:visible")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for each in page.locator("button:visible").all():
        assert each.bounding_box()["height"] >= 38  # for a finger


def test_the_receptive_field(open_page):
    page = open_page()
    assert not page.is_visible("#measure")
    page.evaluate(DROP, file(5))
    bars(page)
    page.click("#measure")
    page.wait_for_selector("#overlay:visible")
    assert "receptive field" in page.get_attribute("#overlay", "aria-label")
    assert page.evaluate(FLASHY) > 20
    assert page.locator("#areas tbody tr").count() == 4
    before = page.evaluate("document.getElementById('overlay').toDataURL()")
    page.click("#hide")
    assert page.evaluate("document.getElementById('overlay').toDataURL()") != before
    assert page.text_content("#hide") == "Show the field"
    page.click("#hide")
    page.fill("#strength", "10")
    assert page.evaluate("document.getElementById('overlay').toDataURL()") != before
    page.evaluate(DROP, file(6))
    page.wait_for_selector("#measure:visible")
    assert not page.is_visible("#overlay") and page.is_visible("#picture")


def test_what_goes_wrong_is_said_in_both_languages(open_page):
    page = open_page(expected="Failed to load resource: the server responded with a status of 4")
    page.evaluate(DROP, file(data=b"nothing"))
    page.wait_for_selector("#message.bad")
    assert page.text_content("#message") == "This file is not an image that can be read."
    assert "cannot show this file" in page.text_content("#name")
    page.click("#language")
    assert page.text_content("#message") == "无法把这个文件作为图片读取。"
    assert not page.is_visible("#field")
    page.evaluate(DROP, ["", "", ""])
    assert page.text_content("#message") == "这不是图片文件。"
    page.evaluate(DROP, file(data=png_bomb(9000, 9000)))
    wait_until(page, lambda: "100 万像素" in page.text_content("#message"))
    page.evaluate(DROP, file())  # and then all is well again
    bars(page)
    assert "bad" not in page.get_attribute("#message", "class")


def test_a_file_that_is_too_large_is_not_sent(open_page, with_field):
    page = open_page()
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    page.evaluate(DROP, file(data=bytes(400_000)))
    page.wait_for_selector("#message.bad")
    assert page.text_content("#message") == "This file is too large. The service takes up to 0.286 MB."
    assert not [url for url in sent if "predict" in url]


def test_the_keyboard_keeps_its_place_when_its_button_goes(open_page):
    page = open_page()
    page.evaluate(DROP, file(5))
    bars(page)
    page.focus("#measure")
    page.keyboard.press("Enter")
    page.wait_for_selector("#overlay:visible")
    wait_until(page, lambda: page.evaluate("document.activeElement.id") == "hide")


def test_names_of_files_and_classes_are_no_html(open_page):
    page = open_page()
    page.evaluate(DROP, file(name="<img src=x onerror=alert(1)>.png"))
    bars(page)
    assert page.text_content("#name") == "<img src=x onerror=alert(1)>.png"
    assert page.locator("#name img").count() == 0


def test_the_policy_holds(open_page):
    page = open_page(expected="Content Security Policy|Refused")
    blocked = page.evaluate("fetch('http://localhost:9/').then(() => 'loaded', () => 'blocked')")
    script = """() => { const s = document.createElement('script'); s.textContent = 'window.bad = 1';
                        document.body.append(s); return window.bad; }"""
    assert blocked == "blocked" and page.evaluate(script) is None


def test_a_service_that_has_gone(browser, predictor):
    from ppreplk.serve.limits import Limits

    context = browser.new_context(locale="en-US")
    page = context.new_page()
    with running(predictor, Limits()) as service:
        page.goto(service.url)
    page.evaluate(DROP, file())
    page.wait_for_selector("#message.bad")
    assert "still running" in page.text_content("#message")
    context.close()
