"""What people write as a time, and what follows from tables whose rows come from more than one registry."""

from __future__ import annotations

import pandas as pd
import pytest

from detection_assets.domain import lineage
from detection_assets.domain.problems import InputError

TIMES = {
    "2026-11-01": "2026-11-01T00:00:00+00:00",
    "2026-11-01T08:30": "2026-11-01T08:30:00+00:00",
    " 2026-11-01T08:30:01Z ": "2026-11-01T08:30:01+00:00",
    "2026-11-01T08:30+02:00": "2026-11-01T06:30:00+00:00",
}


@pytest.mark.parametrize(("said", "meant"), TIMES.items())
def test_a_time_without_a_zone_is_utc(said: str, meant: str) -> None:
    assert lineage.moment(said).isoformat() == meant


@pytest.mark.parametrize("said", ["01/02/2026", "2026-11-01T08:30 CET", "yesterday", "5", "", "12:30", "nan"])
def test_what_could_mean_two_times_is_none(said: str) -> None:
    with pytest.raises(InputError, match="no time; write it as 2026-11-01"):
        lineage.moment(said)


def test_who_served_under_the_number_of_another_model_did_not_see_its_videos() -> None:
    models = pd.DataFrame([{"version": "1", "sha256": "a", "dataset_version": "ds-1"}])
    row = {"slot": "blue", "version": "1", "share": 100, "until": None}
    digests = {"2026-03-01T00:00:00Z": "of the lake that was copied", "2026-03-02T00:00:00Z": "a"}
    digests["2026-03-03T00:00:00Z"] = ""
    periods = pd.DataFrame([{**row, "from": at, "sha256": digest} for at, digest in digests.items()])
    data = {"ds-1": pd.DataFrame([{"train": 1, "val": 0, "test": 0, "annotations": None}])}
    found = lineage.saw(data, models, periods)
    assert found["kind"].tolist() == ["dataset", "model", "deployment", "deployment"]
    assert [at.day for at in found.loc[found["kind"] == "deployment", "since"]] == [2, 3]
