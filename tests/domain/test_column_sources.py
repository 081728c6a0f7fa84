from __future__ import annotations

import pytest

from detection_assets.domain import column_sources, schemas

PAIRS = [(table, column) for table, columns in column_sources.SOURCES.items() for column in columns]


@pytest.mark.parametrize(("table", "column"), PAIRS, ids=".".join)
def test_a_column_comes_from_columns_that_there_are(table: str, column: str) -> None:
    assert column in schemas.SCHEMAS[table]
    sources = column_sources.of(table)[column]
    assert sources
    assert len({*sources}) == len(sources)
    for name, source in sources:
        assert name != table
        assert source in schemas.SCHEMAS[name], f"{name} has no column {source}"


def test_what_people_or_cameras_made_comes_from_nowhere() -> None:
    assert column_sources.of("raw_videos") == {}
    assert "class" not in column_sources.of("annotations")
