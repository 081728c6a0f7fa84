"""The twelve questions of an analyst: their words, how each is asked, and which assets they are about.

The one copy of it: the command line has its help from here, Dagster's catalogue what it tells on the pages of assets,
and the documentation is held against it. Nothing heavy is imported: who asks for help does not want to wait.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

MADE = (
    *("raw_videos", "extracted_frames", "annotations", "detection_dataset", "trained_weights", "evaluation"),
    *("registered_model", "deployed_endpoint"),
)
"""The assets that `detection run` keeps up to date: whatever changes, they may be stale and run again."""


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        number: From 1 to 12.
        asked: The question.
        ways: How it is asked: by a call on a detector, and the words after `detection lineage NAME` that mean the same.
            `{version}` and the like are to be filled in.
        assets: Whom it is about.
        none: What an answer without rows means; filled in likewise.
        also: Where else it is answered.
    """

    number: int
    asked: str
    ways: Mapping[str, str]
    assets: tuple[str, ...]
    none: str
    also: str = ""

    @property
    def title(self) -> str:
        """The question with its number."""
        return f"{self.number}. {self.asked}"

    @property
    def command(self) -> str:
        """The word of the command line."""
        return next(iter(self.ways.values())).split()[0]

    def methods(self) -> tuple[str, ...]:
        """The methods that answer it: keys of `lineage_answers.ANSWERS`."""
        return tuple(dict.fromkeys(call.partition("(")[0] for call in self.ways))

    def asking(self, detector: str, **known: str) -> list[tuple[str, str]]:
        """A line of Python and a command for each way to ask.

        Args:
            detector: Its name.
            known: What is known of what is to be filled in; the rest stands in capitals for what the reader knows.
        """
        calls = _Filled({name: json.dumps(value, ensure_ascii=False) for name, value in known.items()}, '"{}"')
        words = _Filled({name: shlex.quote(value) for name, value in known.items()}, "{}")
        return [
            (
                f'lineage.of("{detector}").{call.format_map(calls)}',
                f"detection lineage {detector} {way.format_map(words)}",
            )
            for call, way in self.ways.items()
        ]

    def nothing(self, **known: str) -> str:
        """What an answer without rows means."""
        return self.none.format_map(_Filled(known, "{}"))


class _Filled(dict[str, str]):
    def __init__(self, known: Mapping[str, str], unknown: str) -> None:
        super().__init__(known)
        self.unknown = unknown

    def __missing__(self, name: str) -> str:
        return self.unknown.format(name.upper())


_ALL = (
    Question(
        1,
        "What serves now, since when, at what share, and who approved it?",
        {"serving()": "serving"},
        ("deployed_endpoint",),
        "nothing serves",
    ),
    Question(
        2,
        "Which dataset, annotations, videos and frames taught a version?",
        {"taught({version})": "taught {version}", "frames({version})": "taught {version} --frames"},
        ("detection_dataset", "trained_weights", "registered_model"),
        "no video",
    ),
    Question(
        3,
        "Which datasets, models and deployments saw a video?",
        {"saw({video})": "saw {video}"},
        ("raw_videos", "extracted_frames", "annotations", "detection_dataset"),
        "no dataset ever had {video}",
    ),
    Question(
        4,
        "What served at a given moment?",
        {"served_at({moment})": "at {moment}"},
        ("deployed_endpoint", "captured_requests", "drift_report"),
        "nothing served at {moment}",
    ),
    Question(
        5,
        "On which annotation versions and which test frames was an evaluation made?",
        {"judged_on({evaluation})": "judged {evaluation}"},
        ("evaluation", "registered_model"),
        "no test frame",
    ),
    Question(
        6,
        "Why does a version score otherwise than another: data, labels, code, parameters, base weights?",
        {"why({version})": "why {version}", "why({version}, {earlier})": "why {version} {earlier}"},
        ("evaluation", "registered_model"),
        "they differ in nothing that is known",
    ),
    Question(
        7,
        "What is stale now, and which change made it so?",
        {"stale()": "stale"},
        MADE,
        "nothing is stale",
        "Dagster says it, too: `Unsynced`, beside the name of the asset",
    ),
    Question(
        8,
        "What would a new video, a changed annotation or a changed setting re-run, at what time and cost?",
        {
            "would_run(video={video})": "what-if --video {video}",
            "would_run(annotation={video})": "what-if --annotation {video}",
            "would_run(setting={section})": "what-if --setting {section}",
        },
        MADE,
        "nothing would run: no stage reads that",
    ),
    Question(
        9,
        "From a request or a predicted box: the model, its dataset, and the training frames most like it.",
        {"alike(request={request})": "alike --request {request}", "alike(frame={frame})": "alike --frame {frame}"},
        ("deployed_endpoint", "batch_predictions", "captured_requests", "label_requests"),
        "no training frame has a box of that class",
    ),
    Question(
        10,
        "Which frames were dropped, and why?",
        {"dropped({video})": "dropped {video}"},
        ("extracted_frames", "detection_dataset"),
        "no frame was dropped",
    ),
    Question(
        11,
        "What did a version cost, asset by asset?",
        {"cost({version})": "cost {version}"},
        ("trained_weights", "registered_model"),
        "nothing had to be run for it",
    ),
    Question(
        12,
        "Which gates and checks were overridden, by whom, when, why?",
        {"overridden()": "overridden"},
        ("evaluation", "registered_model", "deployed_endpoint"),
        "nothing was overridden",
    ),
)

QUESTIONS: Mapping[str, Question] = {question.command: question for question in _ALL}
"""By the word of the command line, in order."""


def about(asset: str) -> list[Question]:
    """The questions about an asset."""
    return [question for question in QUESTIONS.values() if asset in question.assets]
