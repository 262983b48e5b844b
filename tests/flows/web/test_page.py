"""The page in a browser: every view on a workspace and small models, by keyboard too, and with hostile documents.

Every test fails on an error in the page's console, which is also where a browser tells what the policy forbade.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from alignment.votes.annotators import Annotators
from alignment.votes.log import votes_folder
from flows.web.app import STATIC
from flows.web.guard import digest
from flows.web.site import ServeSettings, Site
from infra.store.store import Store
from pipeline.shards import index
from tests.flows.web.sites import running, site_with_models
from tests.flows.workspaces import make_workspace, publish, trained
from tests.support import run_shard_stage
from tests.training.folders import TEMPLATE

playwright = pytest.importorskip("playwright.sync_api", reason="wants playwright")
expect = playwright.expect
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browsing = pytest.mark.skipif(CHROMIUM is None, reason="wants Chromium")
MODULES = sorted(STATIC.glob("*.js"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    store = make_workspace(folder)
    made = {name: store.get_ref(name, "latest") for name in ("shards", "tokenizer")}
    publish(store, run_shard_stage(index.STAGE, index.IndexConfig(), made, folder / "new"))
    publish(store, trained(folder / "new" / "other", made["shards"], "2"))
    store.set_ref("pretrain", "latest", "1" * 12)
    models = {"one": TEMPLATE, "two": TEMPLATE, "plain": None}
    with site_with_models(folder, models, requests_per_second=1000) as site, running(site) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        expect.set_options(timeout=60_000)
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    opened, troubles = context.new_page(), []
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("console", lambda told: troubles.append(told.text) if told.type == "error" else None)
    opened.on("dialog", lambda dialog: dialog.accept())
    yield opened
    context.close()
    assert troubles == []


def write(page: Any, text: str, **sampling: int) -> None:
    """Ask something in the chat, and wait for the answers."""
    if sampling:
        page.get_by_text("Sampling", exact=True).click()
        for name, value in sampling.items():
            page.locator(f"input[name={name}]").fill(str(value))
            page.locator(f"input[name={name}]").blur()
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")
    written(page)


def written(page: Any) -> None:
    expect(page.locator("[role=log]")).to_have_attribute("aria-busy", "false")


# ---- the files themselves -------------------------------------------------------------------------------------------


def test_nothing_is_written_as_markup_and_nothing_comes_from_elsewhere() -> None:
    files = [*MODULES, *STATIC.glob("*.html"), *STATIC.glob("*.css")]
    assert len(MODULES) > 5
    for file in files:
        text = file.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser", text
        ), file
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)[\w.]", text), f"{file} names another server"
        assert not re.search(r"<[^>]+ (style|on\w+)=|<script(?! type=\"module\" src=)", text), f"{file}: inline"


@pytest.mark.skipif(shutil.which("node") is None, reason="wants node")
@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_modules_parse(module: Path) -> None:
    subprocess.run(["node", "--check", "--input-type=module"], stdin=module.open(), check=True, capture_output=True)


# ---- chat -----------------------------------------------------------------------------------------------------------


@browsing
def test_chat_streams_branches_and_tells_of_tokens(page: Any) -> None:
    page.goto("/#chat")
    write(page, "Hello <b>there</b>", max_tokens=12, seed=3, temperature=1)
    answer = page.locator(".bubble.model .text").first
    said = answer.inner_text()
    assert page.locator(".bubble.you").inner_text() == "Hello <b>there</b>"
    assert len(page.locator(".token").all()) > 3, said
    page.locator(".token").nth(1).hover()
    expect(page.locator(".token-box .alternatives li")).to_have_count(5)
    answer.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".token.at")).to_have_count(1)
    expect(page.locator(".token-box")).to_be_visible()
    assert "%" in page.locator(".token-box").inner_text()

    page.get_by_role("button", name="Regenerate").click()
    written(page)
    expect(page.locator(".bubble.model .switch")).to_contain_text("2/2")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit your message").fill("Another")
    page.get_by_role("button", name="Send as a branch").click()
    written(page)
    expect(page.locator(".turn > .acts .switch")).to_contain_text("2/2")
    page.locator(".turn > .acts").get_by_label("The one before").click()
    expect(page.locator(".bubble.you")).to_have_text("Hello <b>there</b>")
    page.reload()
    expect(page.locator(".bubble.you")).to_have_text("Hello <b>there</b>")
    expect(page.locator(".bubble.model .switch")).to_contain_text("2/2")


@browsing
def test_models_side_by_side_stop_and_one_that_continues_text(page: Any) -> None:
    page.goto("/#chat")
    page.get_by_role("checkbox", name="two").check()
    page.get_by_role("checkbox", name="plain").check()
    write(page, "Hi", max_tokens=6, seed=5, temperature=0)
    expect(page.locator(".bubble.model")).to_have_count(3)
    expect(page.locator(".bubble.model .token").first).to_be_visible()
    page.get_by_role("button", name="Go on from here").first.click()
    expect(page.locator("[aria-pressed=true]")).to_have_count(1)
    page.get_by_role("checkbox", name="two").uncheck()
    page.get_by_role("checkbox", name="plain").uncheck()
    page.route("**/v1/chat/completions", lambda route: None)  # a model that takes its time
    page.get_by_label("Your message").fill("more")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop").click()
    written(page)
    expect(page.locator(".turn")).to_have_count(2)
    expect(page.get_by_text("· stopped")).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


@browsing
def test_conversations_are_exported_and_imported(page: Any, tmp_path: Path) -> None:
    page.goto("/#chat")
    write(page, "Keep this", max_tokens=4)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Export").click()
    file = tmp_path / "chats.json"
    waiting.value.save_as(file)
    told = json.loads(file.read_text())
    assert told["conversations"][0]["messages"][0]["text"] == "Keep this"
    told["conversations"][0]["title"] = "<img src=x onerror=alert(1)>"
    file.write_text(json.dumps(told))
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_role("button", name="<img src=x onerror=alert(1)>", exact=True)).to_be_visible()
    told["conversations"][0]["messages"][1]["parent"] = "nobody"
    file.write_text(json.dumps(told))
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_text("A conversation in this file is broken")).to_be_visible()


@browsing
def test_tokens_are_laid_over_text_whatever_bytes_they_are(page: Any) -> None:
    page.goto("/")
    told = page.evaluate(
        """async () => {
        const { TokenReader, inTokens } = await import("/tokens.js");
        const reader = new TokenReader();
        const entry = (bytes, logprob) => ({ token: "?", bytes, logprob, top_logprobs: [] });
        const content = [entry([32, 72, 105], -1), entry([0xf0, 0x9f], -2), entry([0x98, 0x80], -3), entry([33, 63], -4)];
        reader.take({ content });
        const spelt = (text) => inTokens(text, reader.tokens)?.map((each) => [each.text, each.token[1]]) ?? null;
        return [spelt("Hi😀!?"), spelt(" Hi😀!"), spelt("other")];
    }"""
    )
    assert told == [[["Hi", -1], ["😀", -3], ["!?", -4]], [[" Hi", -1], ["😀", -3], ["!", -4]], None]


# ---- documents ------------------------------------------------------------------------------------------------------


@browsing
def test_documents_are_searched_paged_and_shown_as_text(page: Any) -> None:
    page.goto("/#documents")
    expect(page.locator(".results .sample")).to_have_count(20)
    page.get_by_role("button", name="Next page").click()
    expect(page.get_by_text("Page 2.")).to_be_visible()
    page.get_by_label("Address").fill("notes.example/script")
    page.get_by_role("button", name="Search").click()
    page.locator(".results a").click()
    expect(page.get_by_role("heading", name="Through the stages")).to_be_visible()
    page.locator("summary", has_text="Text").first.click()
    expect(page.locator("pre.text").first).to_contain_text("<script>alert(1)</script><img src=x onerror=alert(2)>")
    assert page.locator("#panel img, #panel script, #panel iframe").count() == 0


@browsing
def test_what_cannot_be_seen_is_marked_and_no_address_runs(page: Any) -> None:
    hostile = {
        "id": "0" * 32,
        "title": "a\u202egnp.exe\u2066 </script><img src=x onerror=alert(1)>",
        "url": "javascript:alert(1)",
    }
    page.route("**/api/documents?*", lambda route: route.fulfill(json={"documents": [hostile], "next": None}))
    view = {"stages": [], "duplicates": [], "tokens": {}, "crawled": {"markup": "<script>alert(1)</script>"}}
    page.route("**/api/documents/0*", lambda route: route.fulfill(json=hostile | view))
    page.goto("/#documents")
    page.locator(".results a").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(
        "aU+202Egnp.exeU+2066 </script><img src=x onerror=alert(1)>"
    )
    expect(page.locator(".url").last).to_have_text("javascript:alert(1)")
    assert page.locator("a[href^=javascript], #panel img, #panel script").count() == 0


@browsing
def test_what_changed_and_near_duplicates_are_marked(page: Any) -> None:
    page.goto("/#documents")
    page.get_by_label("Address").fill("pages.example/1")
    page.get_by_role("button", name="Search").click()
    page.locator(".results a").click()
    expect(page.locator("del").first).to_contain_text("anna1@mill-house.org")
    page.goto("/#documents")
    page.get_by_label("Address").fill("twin-b")
    page.get_by_role("button", name="Search").click()
    page.locator(".results a").click()
    page.get_by_text("The difference").click()
    expect(page.locator("ins, del").first).to_be_visible()


@browsing
def test_a_threshold_is_moved_by_keys_and_by_pointer(page: Any) -> None:
    page.goto("/#documents")
    page.locator(".thresholds").get_by_label("Attribute").select_option("words")
    slider = page.get_by_role("slider")
    expect(slider).to_have_attribute("aria-label", "Threshold of words")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("strong", has_text="would go")).to_have_text("0 documents would go")
    page.keyboard.press("End")
    expect(page.locator("strong", has_text="would go")).not_to_have_text("0 documents would go")
    expect(page.locator(".yaml")).to_contain_text("words")
    box = slider.bounding_box()
    slider.click(position={"x": box["width"] / 2, "y": 20})
    middle = int(slider.get_attribute("aria-valuenow"))  # words are counted: no fractions
    assert float(slider.get_attribute("aria-valuemin")) < middle < float(slider.get_attribute("aria-valuemax"))


# ---- the frame ------------------------------------------------------------------------------------------------------


@browsing
def test_tabs_by_keyboard_on_a_telephone_in_the_dark(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme="dark")
    page.goto("/#chat")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(14, 21, 27)"
    page.get_by_role("button", name="Colours").click()
    assert page.evaluate(ground) == "rgb(245, 247, 249)"
    page.get_by_role("tab", name="Chat").focus()
    for name in ("Where from", "Compare", "Documents", "Runs"):
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        expect(page.get_by_role("tabpanel", name=name)).to_be_visible()
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name


@browsing
def test_a_key_is_asked_for_kept_and_not_wanted_of_annotators(browser: Any, tmp_path: Path) -> None:
    key = 'sixteen; or "more", 100 %=é'
    store = Store.at(tmp_path)
    people = Annotators(votes_folder(store))
    site = Site(store, {}, ServeSettings(keys=frozenset({digest(key)})), annotator=people.name_of)
    token = people.add("Zoë")
    with running(site) as url:
        page = browser.new_context(base_url=url).new_page()
        page.goto("/#runs")
        page.get_by_label("Key").fill("not the key at all")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_text("the key is wrong")).to_be_visible()
        page.get_by_label("Key").fill(key)
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_text("Nothing was run here yet.")).to_be_visible()
        page.reload()
        expect(page.get_by_text("Nothing was run here yet.")).to_be_visible()
        theirs = browser.new_context(base_url=url).new_page()
        theirs.goto(f"/?annotator={token}#runs")
        expect(theirs.get_by_role("tab")).to_have_text(["Compare"])
        expect(theirs.get_by_label("Your name")).to_have_count(0)
        theirs.goto("/?annotator=tökén#compare")
        expect(theirs.get_by_text("the key is wrong")).to_be_visible()
        page.context.close()
        theirs.context.close()


# ---- where from, compare, runs --------------------------------------------------------------------------------------


@browsing
def test_words_of_the_training_data_are_found(page: Any) -> None:
    page.goto("/#find")
    words = " ".join(f"word{number}" for number in range(40, 52))
    page.get_by_label("A text").fill(f"😀😀 zzqx {words} qqzz")
    page.get_by_role("button", name="Find", exact=True).click()
    longest = page.locator(".found .span[aria-pressed=true]")
    expect(longest.first).to_contain_text("word45 word46")
    expect(page.locator(".matches .url").first).to_contain_text("notes.example/twin-")
    page.locator(".matches").evaluate("each => each.remove()")
    longest.first.press("Enter")
    expect(page.locator(".matches .url").first).to_contain_text("notes.example/twin-")
    expect(page.locator(".matches mark").first).to_contain_text("word45 word46")
    page.get_by_role("link", name="The document").first.click()
    expect(page.get_by_role("heading", name="Through the stages")).to_be_visible()


@browsing
def test_answers_are_compared_by_keys_and_a_vote_is_taken_back(page: Any) -> None:
    # What a person asks for while the next pair is still on its way waits for it.
    page.add_init_script(
        "const real = window.fetch; window.fetch = async (what, ...more) => {"
        " if (String(what?.url ?? what).includes('compare/next')) await new Promise((done) => setTimeout(done, 500));"
        " return real(what, ...more); }"
    )
    page.goto("/#compare")
    page.get_by_label("Your name").fill("Zoë")
    page.get_by_label("Your name").blur()
    page.get_by_label("A prompt of your own").fill("Which is better?")
    page.get_by_role("button", name="Ask the models").click()
    expect(page.get_by_label("Left", exact=True)).to_be_visible()
    assert not re.search(r"\b(one|two)\b", page.locator("[data-pair]").inner_text())
    page.get_by_role("heading", name="Board").click()
    page.keyboard.press("1")
    expect(page.locator(".progress")).to_contain_text("1 of 1 · Zoë")
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("Which is better?")).to_be_visible()
    page.keyboard.press("3")
    expect(page.locator(".progress")).to_contain_text("1 of 1 · Zoë")
    page.get_by_role("tab", name="Runs").click()
    page.get_by_role("tab", name="Compare").click()
    expect(page.get_by_role("region", name="Annotators")).to_contain_text("Zoë")


@browsing
def test_a_name_that_changes_while_the_models_write_counts(page: Any) -> None:
    def slow(route: Any) -> None:
        name = unquote(route.request.headers["x-annotator"]) or "me"
        asked.append(name)
        page.wait_for_timeout(500 if name == "me" else 0)
        route.fulfill(json={"pair": None, "progress": {"done": 0, "total": 1}, "annotator": name})

    asked: list[str] = []
    page.route("**/api/compare/next", slow)
    page.goto("/#compare")
    page.get_by_label("Your name").fill("Bo")
    page.get_by_label("Your name").blur()
    expect(page.locator(".progress")).to_contain_text("0 of 1 · Bo")
    assert asked == ["me", "Bo"]


@browsing
def test_datasets_funnel_and_curves_are_drawn(page: Any) -> None:
    page.goto("/#runs")
    expect(page.locator(".chart")).to_have_attribute("aria-label", re.compile("loss"))
    expect(page.locator(".chart path.line")).to_have_count(1)
    page.get_by_label("Figure").select_option("lr")
    expect(page.locator(".chart")).to_have_attribute("aria-label", re.compile("lr"))
    page.get_by_label("Figure").select_option("loss")
    chosen = page.get_by_label("Training").input_value()
    others = page.get_by_label("Laid over it").locator("option").evaluate_all("all => all.map((each) => each.value)")
    (other,) = {*others} - {chosen, ""}
    page.get_by_label("Laid over it").select_option(other)
    expect(page.locator(".chart path.line")).to_have_count(2)
    expect(page.locator(".chart")).to_have_attribute("aria-label", re.compile(f"{chosen}.*{other}"))
    expect(page.locator(".legend li")).to_have_count(2)
    page.get_by_label("Laid over it").select_option(chosen)
    expect(page.locator(".chart path.line")).to_have_count(1)
    expect(page.locator(".step", has_text="quality").locator(".stack .kept")).to_be_visible()
    node = page.locator(".node", has_text="dedup")
    node.focus()
    page.keyboard.press("Enter")
    expect(page.locator("h3", has_text="dedup/")).to_be_visible()
    page.get_by_role("button", name="quality/").first.click()
    expect(page.locator("h3", has_text="quality/")).to_be_visible()
