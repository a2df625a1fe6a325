"""The page in a browser: a video is asked for, watched and shown, and its settings are taken again."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator

import pytest
from PIL import Image

from tests.fixtures.running_server import RunningServer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.access(BROWSER, os.X_OK), reason="no Chromium is here to show the page"),
]
SMALL = {"width": "16", "height": "16", "num_frames": "5", "guide_scale": "1"}


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        # Whoever is root, as in containers, has no sandbox.
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: sync_api.Browser, server: RunningServer) -> Iterator[sync_api.Page]:
    page = browser.new_page()
    page.set_default_timeout(30_000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if "//" in request.url else None)
    page.goto(server.address)
    page.wait_for_selector("#connection.on")
    yield page
    page.close()
    assert hosts == {server.address.split("/")[2]}, (
        "a page that takes something from elsewhere needs a network"
    )
    assert not [text for text in wrong if "status of 400" not in text]


def fill(page: sync_api.Page, prompt: str, **values: str) -> None:
    page.fill("[name=prompt]", prompt)
    page.select_option("[name=model]", values.pop("model", "tiny"))
    for name, value in {**SMALL, "steps": "2", **values}.items():
        page.fill(f"[name={name}]", value)


def submit(page: sync_api.Page) -> None:
    with page.expect_response("**/v1/videos") as answer:
        page.click("button.main")
    assert answer.value.ok, answer.value.text()


def test_a_video_is_made_shown_and_its_settings_are_taken_again(page: sync_api.Page):
    fill(page, "a cat on the page", seed="41")
    submit(page)
    shown = page.locator("article", has_text="a cat on the page").first
    shown.wait_for()
    width = shown.locator("video").evaluate(
        """video => new Promise((told, failed) => {
            Object.assign(video, {preload: 'auto', onerror: failed});
            video.onloadedmetadata = () => told(video.videoWidth);
            video.load();
        })"""
    )
    assert width == 16
    assert "seed 41" in shown.inner_text()
    page.fill("[name=prompt]", "something else")
    page.fill("[name=seed]", "")
    shown.get_by_role("button", name="Use settings").click()
    assert page.input_value("[name=prompt]") == "a cat on the page"
    assert [page.input_value(f"[name={name}]") for name in ("seed", "steps", "num_frames")] == [
        "41",
        "2",
        "5",
    ]
    page.on("dialog", lambda dialog: dialog.accept())
    shown.get_by_role("button", name="Delete").click()
    shown.wait_for(state="detached")


def test_what_is_made_shows_itself_and_what_waits_is_moved_and_cancelled(page: sync_api.Page):
    fill(page, "the long one", steps="400", width="64", height="64")
    submit(page)
    for name in ("first", "second"):
        fill(page, name)
        submit(page)
    page.wait_for_selector("#now img:not([hidden])")
    assert page.get_attribute("#now img", "src").startswith("data:image/png")
    left = re.compile(r"step \d+ of 400 · about \d+:\d\d left")
    sync_api.expect(page.locator("#now")).to_contain_text(left)
    prompts = page.locator("#queue .prompt")
    sync_api.expect(prompts).to_have_text(["first", "second"])
    page.locator("#queue li").nth(1).get_by_role("button", name="Make it earlier").click()
    sync_api.expect(prompts.first).to_have_text("second")
    page.locator("#queue li").nth(1).get_by_role("button", name="Cancel").click()
    page.locator("article", has_text="first").locator(".state.cancelled").wait_for()
    page.locator("#now").get_by_role("button", name="Cancel").click()
    page.locator("article", has_text="the long one").locator(".state.cancelled").wait_for()
    page.locator("article", has_text="second").locator("video").wait_for()  # the queue goes on


def test_a_plan_is_shown_before_the_run_and_a_wrong_value_is_told(page: sync_api.Page):
    fill(page, "a cat")
    page.click("#plan-button")
    page.wait_for_selector("#plan table")
    assert page.locator("#plan tbody th").all_inner_texts() == ["text", "denoise", "decode"]
    page.fill("[name=num_frames]", "6")
    page.click("#plan-button")
    page.wait_for_selector("#form-error:not([hidden])")
    assert "4n+1" in page.inner_text("#form-error")


def test_an_image_is_given_and_the_video_is_made_of_it(page: sync_api.Page, server: RunningServer):
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "green").save(file, "PNG")
    fill(page, "of an image", model="tiny-i2v")
    chosen = {"name": "../../a.png", "mimeType": "image/png", "buffer": file.getvalue()}
    page.set_input_files("[name=image]", chosen)
    page.wait_for_selector("#image-shown:not([hidden])")
    submit(page)
    page.locator("article", has_text="of an image").locator("video").wait_for()
    with server.client() as client:
        made = client.get("/api/videos").json()["ended"][0]
    assert made["inputs"] == ["image"]
    page.select_option("[name=model]", "tiny")
    assert page.locator("#image-field").is_hidden()


def test_every_field_and_button_has_a_name(page: sync_api.Page):
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('input, select, textarea, button')].filter((each) =>
        !(each.labels?.length || each.ariaLabel || each.innerText?.trim())).map((each) => each.outerHTML)"""
    )
    assert nameless == []


def test_a_prompt_is_shown_as_text(page: sync_api.Page):
    fill(page, "<img src=x onerror=alert(1)><b>bold</b>")
    submit(page)
    page.locator("article", has_text="<b>bold</b>").locator("video").wait_for()
    assert page.locator("article b").count() == 0
