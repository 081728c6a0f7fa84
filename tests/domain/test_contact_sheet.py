"""Sheets of frames: boxes where they should be, truth solid, predictions dashed, nothing lost to a bad picture."""

import io
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageColor

from detection_assets.domain import contact_html, contact_sheet, tiles
from detection_assets.domain.disagreements import judge
from detection_assets.domain.tiles import Mark, Tile, clock, laid_out, shown, small

RED, BLUE = tiles.color_of("apple", ["apple", "cola"]), tiles.color_of("cola", ["apple", "cola"])
GROUND = (128, 128, 128)


def encoded(size=(200, 100), kind="PNG", **options):
    out = io.BytesIO()
    Image.new("RGB", size, GROUND).save(out, kind, **options)
    return out.getvalue()


def drawn(*boxes, size=(200, 100), **options):
    image = Image.new("RGB", size, GROUND)
    contact_sheet.draw(image, boxes, (1.0, 1.0), **options)
    return np.asarray(image)


def is_color(pixels, color):
    return (pixels == ImageColor.getrgb(color)).all(axis=-1)


def test_a_box_is_drawn_on_its_own_edges_and_nowhere_else():
    lines = is_color(drawn(Mark((20, 30, 60, 80), RED), line=2), RED)
    expected = np.zeros((100, 200), bool)
    expected[30:80, 20:60] = True
    expected[32:78, 22:58] = False
    assert (lines == expected).all()


def test_predictions_are_dashed_on_the_same_edges():
    solid = is_color(drawn(Mark((20, 30, 80, 80), RED), line=2), RED)
    dashed = is_color(drawn(Mark((20, 30, 80, 80), RED, dashed=True), line=2), RED)
    assert not (dashed & ~solid).any()
    for side in (dashed[30, 20:80], dashed[79, 20:80], dashed[30:80, 20], dashed[30:80, 79]):
        assert 0.4 < side.mean() < 0.8
        assert np.count_nonzero(np.diff(side.astype(int))) >= 6, "several dashes"


def test_what_is_right_is_thinner_than_what_is_wrong():
    wrong, right = (is_color(drawn(Mark((20, 30, 60, 80), RED, right=right), line=4), RED).sum() for right in (0, 1))
    assert right < wrong


@pytest.mark.parametrize(
    "corners",
    [
        (-50, -50, 500, 500),
        (190, 90, 200, 100),
        (50, 50, 50, 50),
        (250, 150, 300, 170),
        (-9, -9, -5, -5),
        (60, 80, 20, 30),
    ],
)
def test_boxes_at_and_beyond_the_edge_are_drawn_inside(corners):
    for dashed in (False, True):
        assert drawn(Mark(corners, RED, dashed, label="apple")).shape == (100, 200, 3)


def test_labels_of_truth_and_prediction_do_not_hide_each_other():
    pixels = drawn(Mark((50, 40, 90, 60), RED, label="apple"), Mark((50, 40, 90, 60), BLUE, True, label="cola 0.50"))
    assert is_color(pixels[:40], RED).sum() > 200
    assert is_color(pixels[60:], BLUE).sum() > 200


@pytest.mark.parametrize("name", ["水", "x" * 5000, "two\nlines\tand\x00more", "", "\ud800"])
def test_any_class_name_can_be_drawn(name):
    tile = Tile(name, (200, 100), [Mark((50, 40, 90, 60), RED, label=name)], name, picture=Image.new("RGB", (200, 100)))
    made = contact_sheet.sheet([tile], 1, name, [name], both=True)
    assert made.width == tiles.WIDTH + 2 * contact_sheet.GAP


def test_pictures_are_small_turned_as_displayed_and_never_scaled_up():
    exif = Image.Exif()
    exif[tiles.ORIENTATION] = 6  # held upright
    picture, own = small(encoded((4000, 2000), "JPEG", exif=exif), 480) or pytest.fail("not decoded")
    assert (picture.size, own) == ((480, 960), (2000, 4000))
    picture, own = small(encoded((20, 10)), 480) or pytest.fail("not decoded")
    assert (picture.size, own) == ((20, 10), (20, 10))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (None, "the picture is missing"),
        (b"", "the picture cannot be read"),
        (b"no picture", "the picture cannot be read"),
        (encoded(kind="JPEG")[:200], "the picture cannot be read"),
        (encoded(kind="GIF"), "the picture cannot be read"),
    ],
)
def test_a_bad_picture_is_a_grey_tile_that_says_so_and_loses_no_other(raw, why):
    good, bad = Tile("v#1", (200, 100), [], "1 cola"), Tile("v#2", (200, 100), [Mark((0, 0, 9, 9), RED)], "1 apple")
    made = [shown(bad, raw), shown(good, encoded())]
    assert made[0].problem == why
    sheet = np.asarray(contact_sheet.sheet(made, 2, "both", ["apple"], shape=0.5))
    assert is_color(sheet, contact_sheet.GREY).sum() > 50_000
    assert (sheet == GROUND).all(axis=-1).sum() > 100_000
    page = "".join(contact_html.page(made, "both", [], ["apple"]))
    assert why in page
    assert page.count("<img") == 1


def test_a_sheet_puts_tiles_in_rows_and_words_below_each():
    boxes = pd.DataFrame([("v#0", "apple", 0, 0, 100, 50)], columns=["frame", "class", "x1", "y1", "x2", "y2"])
    frames = pd.DataFrame({"frame": [f"v#{at}" for at in range(5)], "key": "k", "width": 200, "height": 100})
    made = [shown(tile, encoded()) for tile, _ in laid_out(frames, boxes, ["apple"], both=False)]
    assert [tile.verdict for tile in made] == ["1 apple", *["nothing there"] * 4]
    sheet = np.asarray(contact_sheet.sheet(iter(made), 5, "five", ["apple"], columns=2, shape=0.5))
    grey = (sheet == GROUND).all(axis=-1)
    rows, columns = grey.sum(axis=1) > 300, grey.sum(axis=0) > 300
    assert np.count_nonzero(np.diff(np.r_[0, rows, 0]) == 1) == 3
    assert np.count_nonzero(np.diff(np.r_[0, columns, 0]) == 1) == 2
    top, left = rows.argmax(), contact_sheet.GAP
    assert is_color(sheet[top : top + 3, left : left + tiles.WIDTH // 2], RED).mean() > 0.7, "the upper edge of the box"
    # The legend's red, the box's red, and no other.
    below = sheet[top + tiles.WIDTH // 2 + 40 :]
    assert not is_color(below, RED).any()


def test_very_many_tiles_make_a_sheet_that_can_be_written():
    blank = Tile("v#1", (16, 9), [], "", problem="none")
    made = contact_sheet.sheet((blank for _ in range(900)), 900, "many", [], width=60, columns=1)
    assert made.height <= contact_sheet.HIGHEST + 100
    assert contact_sheet.encoded(made, "JPEG").startswith(b"\xff\xd8")


def test_a_sheet_of_very_many_large_tiles_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(contact_sheet, "MOST_PIXELS", 4_000_000)
    blank = Tile("v#1", (16, 9), [], "", problem="none")
    made = contact_sheet.sheet([blank] * 100, 100, "many", [])
    assert made.width * made.height < 6_000_000


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.0, "0:00.00"), (65.4, "1:05.40"), (59.999, "1:00.00"), (3661.25, "1:01:01.25"), (float("nan"), "")],
)
def test_times_are_told_as_people_read_them(seconds, told):
    assert clock(seconds) == told


class Elements(HTMLParser):
    """What a page consists of."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def of(self, tag, **attributes):
        return [found for name, found in self.found if name == tag and attributes.items() <= found.items()]


def test_a_page_has_the_boxes_of_both_sides_the_words_and_an_alternative_text():
    box = pd.DataFrame([("v#0", "apple", 20.0, 30.0, 60.0, 80.0)], columns=["frame", "class", "x1", "y1", "x2", "y2"])
    judged = judge(box, box.assign(confidence=0.75, **{"class": "cola"}), ["v#0"])
    frames = pd.DataFrame({"frame": ["v#0"], "key": "k", "width": 200, "height": 100, "pts_s": 65.4})
    made = [shown(tile, encoded()) for tile, _ in laid_out(frames, judged, ["apple", "cola"], both=True)]
    page = Elements("".join(contact_html.page(made, "a sheet", ["said"], ["apple", "cola"], both=True)))
    place = {"x": "20.0", "y": "30.0", "width": "40.0", "height": "50.0"}
    assert len(page.of("rect")) == 2
    assert page.of("rect", **place, stroke=RED, **{"class": "truth"})
    assert page.of("rect", **place, stroke=BLUE, **{"class": "prediction"})
    assert page.of("svg", viewbox="0 0 200 100")
    assert [image["alt"] for image in page.of("img")] == ["v#0: 1 apple taken for cola"]
    assert {"a sheet", "said", "apple", "cola 0.75", "1 apple taken for cola", "1:05.40"} <= set(page.text)
    assert [box["id"] for box in page.of("input")] == ["truth", "prediction", "right"]


def test_names_from_outside_are_text_and_nothing_else():
    hostile = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'"
    boxes = pd.DataFrame([(hostile, hostile, 0, 0, 9, 9)], columns=["frame", "class", "x1", "y1", "x2", "y2"])
    frames = pd.DataFrame({"frame": [hostile], "key": "k", "width": 20, "height": 10})
    (tile, _), *_ = laid_out(frames, boxes, [hostile], both=False)
    for made in (shown(tile, encoded()), shown(tile, None)):
        html = "".join(contact_html.page([made], hostile, [hostile], [hostile], both=True))
        page = Elements(html)
        assert "script" not in {tag for tag, _ in page.found}
        assert all(not name.startswith("on") for _, found in page.found for name in found)
        assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.of("img"))
        assert "default-src 'none'" in page.of("meta")[1]["content"]
