"""The report of what was wrong: a CSV that a spreadsheet opens without running anything."""

from __future__ import annotations

import csv
import io
import math

import pytest
from domain.test_matching import boxes, run, video_frames

from detection_assets.domain import problem_report
from detection_assets.domain.formats.parsed import MAX_LISTED, ProblemLog, Unreadable
from detection_assets.domain.problems import ACTIONS, Problem

DONE = {
    "dropped": ("dropped", ""),
    "dropped; write the names into labels.txt": ("dropped", "write the names into labels.txt"),
    "clipped": ("clipped", ""),
    "scaled": ("kept", ""),
    "taken by the box around it": ("kept", ""),
    "kept the first; give each image its own id": ("kept", "give each image its own id"),
    "skipped the file: save it as UTF-8": ("skipped", "save it as UTF-8"),
    "skipped": ("skipped", ""),
    "passed over": ("skipped", ""),
    "left out; rename it to keep it": ("noted", "rename it to keep it"),
    "written as text": ("noted", ""),
    "dropped, not listed": ("dropped", ""),
}


@pytest.mark.parametrize(("done", "meant"), DONE.items(), ids=DONE)
def test_what_was_done_is_one_of_a_few_words(done: str, meant: tuple[str, str]) -> None:
    problem = Problem("a.json", "", "wrong", done)
    assert (problem.action, problem.remedy) == meant
    assert problem.action in ACTIONS


def test_a_spreadsheet_takes_no_text_for_a_formula() -> None:
    hostile = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'quoted'", 'a"b,c\nd', "größe 文件", "\ud800"]
    problems = [
        Problem(text, text, text, "dropped", text, text, text, text, (-1.5, 0, 2, math.nan)) for text in hostile
    ]
    data = problem_report.to_csv(problem_report.rows(problems))
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    assert len(rows) == len(hostile)
    for row in rows:
        assert row["x1"] == "-1.5", "numbers stay numbers"
        assert row["y2"] == ""
        assert not row["file"].startswith(("=", "+", "-", "@", "\t", "\r"))
    again = problem_report.from_csv(data)
    assert again["what"].tolist()[:5] == hostile[:5]
    assert again["what"].tolist()[6:9] == hostile[6:9]
    assert again["x1"].tolist() == [-1.5] * len(hostile)
    assert problem_report.from_csv(problem_report.to_csv(problem_report.rows([]))).empty


def test_a_box_is_told_with_its_frame_and_what_to_do() -> None:
    rows = [
        {"frame_index": 0, "x1": 90.0, "x2": 110.0},
        {"frame_index": 1, "x2": 10.0},
        {"frame_index": 2, "class": "cow"},
        {"frame_index": 77},
    ]
    table = problem_report.rows(run(boxes(*rows), video_frames(0, 1, 2), 10).problems).set_index("kind")
    assert sorted(table.index) == ["no area", "out of frame", "unknown class", "unknown frame"]
    assert table["action"].to_dict() == {
        **{"no area": "dropped", "out of frame": "clipped", "unknown class": "dropped", "unknown frame": "dropped"}
    }
    assert (table["remedy"] != "").all()
    assert table.loc["out of frame", ["x1", "y1", "x2", "y2", "class"]].tolist() == [90.0, 10.0, 110.0, 20.0, "cat"]
    assert table.loc["out of frame", "frame"].endswith("#000000")
    assert problem_report.lost(table) == 3


def test_what_is_too_much_to_list_is_counted_as_what_it_is() -> None:
    log = ProblemLog()
    for number in range(MAX_LISTED + 5):
        log.add("bbox", "a.json", f"annotation {number}", "is not four numbers", "dropped")
    log.unreadable("b.json", Unreadable("is empty", "export it again"))
    problems = log.problems()
    assert problem_report.by_kind(problems) == {"bbox, dropped": MAX_LISTED + 5, "unreadable, skipped": 1}
    assert len(problems) == MAX_LISTED + 2
    summary = problem_report.summary(problem_report.by_kind(problems))
    assert summary.values.tolist() == [["bbox", "dropped", MAX_LISTED + 5], ["unreadable", "skipped", 1]]
