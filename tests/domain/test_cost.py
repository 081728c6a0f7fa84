from __future__ import annotations

from detection_assets.domain.cost import Cost, table


def test_a_row_for_each_asset_in_the_order_of_the_data_and_one_for_all() -> None:
    spent = [
        Cost("extracted_frames", "ml.m5.xlarge", 100.04, 0.00639),
        Cost("trained_weights", "ml.g5.xlarge", 3600.0, 1.408),
        Cost("extracted_frames", "ml.m5.large", 20.0, 0.0006),
        Cost("evaluation", "", 5.0, 0.0),
    ]
    found = table(spent)
    assert list(found.columns) == ["asset", "runs", "ran on", "seconds", "USD"]
    assert found.to_numpy().tolist() == [
        ["extracted_frames", 2, "ml.m5.large, ml.m5.xlarge", 120.0, 0.007],
        ["trained_weights", 1, "ml.g5.xlarge", 3600.0, 1.408],
        ["evaluation", 1, "", 5.0, 0.0],
        ["all", 4, "ml.g5.xlarge, ml.m5.large, ml.m5.xlarge", 3725.0, 1.415],
    ]


def test_without_costs_there_is_a_table_without_rows() -> None:
    assert table([]).empty
    assert list(table([]).columns) == ["asset", "runs", "ran on", "seconds", "USD"]
