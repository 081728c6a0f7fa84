"""Times as people write them; who saw what under more than one registry; and which training frames look most alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from detection_assets.domain import lineage, snapshot
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


@pytest.mark.parametrize(("known", "rare"), [(0, 1), (3, 1), (1500, 1), (1500, 400)])
def test_what_looks_most_alike_is_what_a_look_at_each_finds(known: int, rare: int) -> None:
    rng = np.random.default_rng(known)
    hashes = [None if number % 7 == 3 else f"{one:016x}" for number, one in enumerate(rng.integers(2**63, size=known))]
    names = [f"f{number:05}" for number in range(known)]
    drawn = [name for name in names[::rare] for _ in range(1 + int(name[1:]) % 3)]
    frames = {"frame": names, "video": "v", "file": names, "split": "train", "phash": hashes}
    boxes = pd.DataFrame({"frame": rng.permutation(np.array(drawn, dtype=object)), "class": "cola"})
    table = snapshot.hashes(pd.DataFrame(frames).astype(object), boxes, ["water", "cola"])
    told = table["phash"], table[snapshot.boxes_of("cola")]
    asked = "00ff" * 4
    apart = {
        name: 65 if one is None else (int(one, 16) ^ int(asked, 16)).bit_count()
        for name, one in zip(names, hashes, strict=True)
    }
    nearest = sorted(set(drawn), key=lambda name: (apart[name], name))[:20]
    found = lineage.alike(asked, *told, 20)
    assert [names[place] for place in found["place"]] == nearest
    assert found["boxes"].tolist() == [drawn.count(name) for name in nearest]
    assert [65 if pd.isna(one) else one for one in found["distance"]] == [apart[name] for name in nearest]
    assert found["rank"].tolist() == [*range(1, len(nearest) + 1)]
    unknown = lineage.alike(None, *told, 20)
    assert [names[place] for place in unknown["place"]] == names[::rare][:20]
    assert unknown["distance"].isna().all()
    assert lineage.alike(asked, table["phash"], table[snapshot.boxes_of("water")], 20).empty
