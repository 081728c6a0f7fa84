"""The page, in a real browser: a person drops a picture and sees boxes."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import KEY, Server


@pytest.fixture
def page(browser, server: Server) -> Iterator[object]:
    """The page, opened with the key in its address; nothing may go wrong or go elsewhere."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    elsewhere: list[str] = []
    faults: list[str] = []
    local = (server.url, "blob:", "data:")
    page.on("request", lambda request: request.url.startswith(local) or elsewhere.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: "Content Security" in line.text and faults.append(line.text))
    page.goto(f"{server.url}/#key={KEY}")
    yield page
    page.close()
    assert (elsewhere, faults) == ([], [])


def boxes_shown(page, count: int) -> None:
    page.wait_for_selector(f'body[data-boxes="{count}"]', timeout=15_000)
    assert page.locator("#boxes li").count() == count
    assert page.locator("#count").inner_text() == str(count)


def ink(page) -> int:
    """Saturated pixels on the canvas: lines and labels, none of which a grey picture has."""
    return page.evaluate(
        """() => {
        const canvas = document.getElementById("canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let count = 0;
        for (let i = 0; i < data.length; i += 4)
            count += Math.max(data[i], data[i + 1], data[i + 2]) - Math.min(data[i], data[i + 1], data[i + 2]) > 60;
        return count;
    }"""
    )


def test_a_chosen_picture_shows_its_boxes(page, server: Server, detector: Path, tmp_path: Path) -> None:
    from PIL import Image

    best: tuple[int, Path, list[dict]] = (0, tmp_path, [])
    for file in sorted((detector / "pictures").iterdir()):
        grey = tmp_path / file.name
        Image.open(file).convert("L").save(grey)
        found = server.client.post("/score?confidence=0.05", content=grey.read_bytes()).json()["boxes"]
        best = max(best, (sum(0.25 <= box["confidence"] < 0.95 for box in found), grey, found))
    _, grey, found = best
    sure = [box for box in found if box["confidence"] >= 0.25]
    assert len(sure) > 1

    assert KEY not in page.url
    page.set_input_files("#file", str(grey))
    boxes_shown(page, len(sure))
    assert sure[0]["class"] in page.locator("#boxes li").first.inner_text()
    assert f"{sure[0]['confidence'] * 100:.1f}%" in page.locator("#boxes li").first.inner_text()
    assert page.locator("#version").inner_text() == "3"
    assert page.locator("#detector").inner_text() == "fridge"
    assert page.locator("#latency").inner_text().endswith(" ms")
    assert page.locator("#readiness").inner_text() == "ready"
    with_boxes = ink(page)

    page.locator("#confidence").fill("0.95")
    boxes_shown(page, sum(box["confidence"] >= 0.95 for box in found))
    page.locator("#confidence").fill("0.05")
    boxes_shown(page, len(found))
    assert with_boxes > 1000


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_dropped_or_pasted_picture_shows_its_boxes(page, server: Server, detector: Path, event: str) -> None:
    picture = (detector / "pictures" / "02.png").read_bytes()
    expected = server.client.post("/score?confidence=0.05", content=picture).json()["boxes"]
    page.evaluate(
        """([encoded, kind]) => {
        const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
        const about = { bubbles: true, cancelable: true };
        const event = kind === "drop" ? new DragEvent("drop", { ...about, dataTransfer: data })
                                      : new ClipboardEvent("paste", { ...about, clipboardData: data });
        document.getElementById("stage").dispatchEvent(event);
    }""",
        [base64.b64encode(picture).decode(), event],
    )
    boxes_shown(page, sum(box["confidence"] >= 0.25 for box in expected))


def test_a_file_that_is_no_picture_gets_a_reason(page, tmp_path: Path) -> None:
    file = tmp_path / "notes.png"
    file.write_text("no picture")
    page.set_input_files("#file", str(file))
    page.wait_for_selector("#problem:not([hidden])")
    assert "cannot show notes.png" in page.locator("#problem").inner_text()


def test_the_page_asks_for_a_key(browser, server: Server, detector: Path) -> None:
    page = browser.new_page()
    page.goto(server.url)
    page.wait_for_selector("#keyform:not([hidden])")
    page.set_input_files("#file", str(detector / "pictures" / "01.png"))
    page.locator("#key").fill("a guess")
    page.locator("#keyform button").click()
    page.wait_for_selector("#problem:not([hidden])")
    assert "key is wrong" in page.locator("#problem").inner_text()
    page.locator("#key").fill(KEY)
    page.locator("#keyform button").click()
    page.wait_for_selector("#boxes li")
    assert page.locator("#keyform").is_hidden()
    page.reload()
    assert page.locator("#keyform").is_hidden()
    page.close()
