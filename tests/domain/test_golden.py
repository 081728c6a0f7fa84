from __future__ import annotations

import pytest

from detection_assets.domain.golden import Answer, judge


@pytest.mark.parametrize(
    ("answers", "limit_ms", "passed", "says"),
    [
        ([], 100.0, True, "no golden frames"),
        ([Answer(50, 50, 10.0)] * 8, 100.0, True, "400 of 400"),
        ([Answer(50, 49, 10.0)] * 8, 100.0, True, "392 of 400"),
        ([Answer(50, 48, 10.0)] * 8, 100.0, False, "only 384 of 400"),
        # One answer that was held up is no verdict; half of them are.
        ([*[Answer(1, 1, 10.0)] * 7, Answer(1, 1, 900.0)], 100.0, True, "8 of 8"),
        ([*[Answer(1, 1, 10.0)] * 3, *[Answer(1, 1, 900.0)] * 5], 100.0, False, "900 ms and more"),
        ([Answer(0, 0, 900.0)] * 8, 100.0, False, "at most 100 ms"),
    ],
)
def test_golden_frames_must_be_answered_right_and_in_time(
    answers: list[Answer], limit_ms: float, passed: bool, says: str
) -> None:
    verdict = judge(answers, limit_ms)
    assert verdict.passed is passed
    assert says in verdict.why
