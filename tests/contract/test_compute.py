import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract.in_a_run import in_a_run
from PIL import Image

from resources.compute.base import Input, Step, StepFailed, StepResult, version_of

PLATFORMS = ["local", "aws", "azure"]
SAMPLING = {
    **{"method": "rate", "rate": 1.0, "scene_threshold": 0.3, "min_sharpness": 0, "near_duplicate": None},
    **{"max_frames": None, "jpeg_quality": 90},
}


def photos(platform: Any, count: int = 3) -> None:
    import io

    for number in range(count):
        out = io.BytesIO()
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)).save(out, "JPEG")
        platform.storage.put(f"videos/photos/{number}.jpg", out.getvalue())


def step(version: str = "v1", **changes: Any) -> Step:
    wanted = {
        "program": "extract",
        "version": version,
        "inputs": {"videos": Input("videos")},
        "outputs": {"photos": f"frames/photos/{version}"},
        "params": {
            "videos": [{"video": "photos", "kind": "images", "path": "photos", "out": "photos"}],
            "sampling": SAMPLING,
        },
        "hardware": "cpu",  # a job, where the platform has such
        "notes": {"why": "test"},
    }
    return Step(**{**wanted, **changes})


def run(platform: Any, wanted: Step, reports: list | None = None) -> StepResult:
    """Runs a step as an asset does, in a real Dagster run."""
    tell = reports.append if reports is not None else None
    return in_a_run(lambda context: platform.compute.run(context, wanted, tell))


def test_a_step_publishes_what_the_program_made(platform: Any) -> None:
    photos(platform)
    reports: list[Any] = []
    result = run(platform, step(), reports)
    published = result.outputs["photos"]
    assert {"frames.parquet", "0.jpg", "1.jpg", "2.jpg"} <= set(published.files)
    assert platform.storage.published("frames/photos/v1") == published
    assert published.notes["why"] == "test"
    assert published.notes["program"] == "extract"
    assert not result.reused
    assert result.seconds > 0
    assert [report["kind"] for report in reports] == ["video"]
    assert reports[0]["kept"] == 3


def test_a_step_that_was_published_is_not_run_again(platform: Any) -> None:
    photos(platform)
    first = run(platform, step())
    again = run(platform, step())
    assert again.reused
    assert again.outputs == first.outputs
    assert again.seconds == pytest.approx(first.seconds, abs=0.01)


def test_a_program_reads_the_named_keys_and_no_other(platform: Any) -> None:
    photos(platform)
    result = run(platform, step(inputs={"videos": Input("videos", ["photos/1.jpg"])}))
    assert {name for name in result.outputs["photos"].files if name.endswith(".jpg")} == {"1.jpg"}


def test_a_program_that_fails_publishes_nothing_and_says_why(platform: Any) -> None:
    photos(platform)
    with pytest.raises(StepFailed, match="exit code"):
        run(platform, step(params={"videos": "no list", "sampling": SAMPLING}))
    assert platform.storage.published("frames/photos/v1") is None
    assert not run(platform, step()).reused, "and the same step can be run afterwards"


def test_a_step_that_takes_too_long_is_stopped(platform: Any) -> None:
    photos(platform)
    with pytest.raises(StepFailed, match="limit of 0 s"):
        run(platform, step(timeout_s=0.0))
    assert platform.storage.published("frames/photos/v1") is None


def test_the_same_step_does_not_run_twice_at_once(platform: Any) -> None:
    photos(platform, 40)
    errors: list[Exception] = []

    def other() -> None:
        try:
            run(platform, step())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=other) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert platform.storage.published("frames/photos/v1") is not None
    assert all("running already" in str(error) for error in errors)
    assert len(errors) < 2


def test_a_finished_step_leaves_no_scratch(platform: Any, home: Path) -> None:
    photos(platform)
    run(platform, step())
    assert not list((home / ".scratch" / "tiny").glob("*"))
    assert not list(platform.storage.list("jobs"))


def test_a_version_depends_on_content_and_not_on_the_order_of_keys() -> None:
    assert version_of("a", {"x": 1, "y": 2}) == version_of("a", {"y": 2, "x": 1})
    assert version_of("a", {"x": 1}) != version_of("a", {"x": 2})
    assert version_of("a", ["x", "y"]) != version_of("a", ["y", "x"])
