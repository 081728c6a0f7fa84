"""The table of questions beside the methods, the commands and the assets that it speaks of."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from typing import Any

import pandas as pd
import pytest
import typer
from project import ROOT

from detection_assets import lineage
from detection_assets.commands import questions
from detection_assets.domain import answer_text, lineage_questions
from detection_assets.domain.lineage_answers import ANSWERS, answer
from detection_assets.domain.lineage_questions import QUESTIONS, Question
from jobs import jobs

PAGE = ROOT / "docs" / "lineage.md"
OF = 'lineage.of("fridge")'
ALL = list(QUESTIONS.values())
COMMANDS: Any = typer.main.get_command(questions.app)
"""A group of Click's."""


def test_there_are_twelve_and_every_answer_belongs_to_one() -> None:
    assert [question.number for question in ALL] == list(range(1, 13))
    assert [method for question in ALL for method in question.methods()] == list(ANSWERS)
    assert list(COMMANDS.commands) == list(QUESTIONS)
    assert lineage_questions.MADE == jobs.STAGES


@pytest.mark.parametrize("question", ALL, ids=QUESTIONS)
def test_a_question_can_be_asked_as_it_is_told(question: Question) -> None:
    assert COMMANDS.commands[question.command].help == question.title
    for line, command in question.asking("tiny", version="3"):
        call = ast.parse(line, mode="eval").body
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Attribute)
        method = getattr(lineage.Lineage, call.func.attr)
        given = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        inspect.signature(method).bind(None, *map(ast.literal_eval, call.args), **given)
        program, group, name, word, *words = shlex.split(command)
        assert (program, group, name, word) == ("detection", "lineage", "tiny", question.command)
        COMMANDS.commands[word].make_context(word, list(words))


@pytest.mark.parametrize("question", ALL, ids=QUESTIONS)
def test_the_documentation_has_its_words_and_a_picture_that_says_what_it_shows(question: Question) -> None:
    page = PAGE.read_text()
    part = page.partition(f"\n**{question.title}**")[2].partition("\n**")[0]
    for line, command in question.asking("fridge"):
        assert f"`fridge{line.removeprefix(OF)}` or `{command}`" in part
    (words,) = re.findall(rf"!\[([^\]]+)\]\(images/lineage/{question.command}\.svg\)", part)
    assert words.startswith(f"detection lineage fridge {question.command}")
    picture = (PAGE.parent / "images" / "lineage" / f"{question.command}.svg").read_text()
    assert len(picture) < 60_000
    assert "http" not in picture.replace("http://www.w3.org/2000/svg", "").replace("https://www.textualize.io", "")


def test_what_is_asked_of_is_quoted_for_python_and_for_the_shell() -> None:
    name = 'Bob\'s "clip" `1`\n.mp4'
    ((line, command),) = QUESTIONS["saw"].asking("tiny", video=name)
    call = ast.parse(line, mode="eval").body
    assert isinstance(call, ast.Call)
    assert ast.literal_eval(call.args[0]) == name
    assert shlex.split(command)[-1] == name
    assert QUESTIONS["saw"].nothing(video="a.mp4") == "no dataset ever had a.mp4"
    assert QUESTIONS["saw"].asking("tiny")[0] == ('lineage.of("tiny").saw("VIDEO")', "detection lineage tiny saw VIDEO")


def test_an_answer_is_cut_and_says_how_to_have_the_rest() -> None:
    rows = [{"version": "3", "video": f"<b>{at}|.mp4", "boxes": at, "train": 1} for at in range(30)]
    found = answer("taught", rows)
    said, shown = answer_text.condensed(found)
    assert said == "version 3, train 1"
    assert shown.columns.tolist() == ["video", "boxes"]
    told = answer_text.markdown(QUESTIONS["taught"], "tiny", found, version="3")
    assert told.startswith(
        "**2. Which dataset, annotations, videos and frames taught a version?**\n\nversion 3, train 1"
    )
    assert told.count("&lt;b&gt;") == answer_text.MOST
    assert "The first 20 of 30." in told
    assert '- `detection lineage tiny taught 3`, or `lineage.of("tiny").taught("3")`' in told
    none = answer_text.markdown(QUESTIONS["overridden"], "tiny", answer("overridden", []))
    assert "nothing was overridden" in none


def test_times_are_told_to_the_second_and_what_is_missing_is_a_dash() -> None:
    row = {"slot": "blue", "version": "1", "share": 100, "since": pd.Timestamp(0, unit="s", tz="UTC"), "until": None}
    rows = [row, {**row, "slot": "green", "until": pd.Timestamp(60.25, unit="s", tz="UTC")}]
    told = answer_text.markdown(QUESTIONS["at"], "tiny", answer("served_at", rows), moment="1970-01-01")
    assert "since 1970-01-01 00:00:00" in told
    assert "| blue | – |" in told
    assert "| green | 1970-01-01 00:01:00 |" in told


def test_a_name_with_backticks_stays_code() -> None:
    told = answer_text.ways(QUESTIONS["dropped"], "tiny", video="a`b``c.mp4")
    assert told.startswith("- ``` detection lineage tiny dropped 'a`b``c.mp4' ```, or ``` lineage")
