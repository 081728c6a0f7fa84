"""What a server loads before it listens decides how fast it starts."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "torch",
    "ultralytics",
    "dagster",
    "mlflow",
    "pandas",
    "onnx",
    "onnxruntime",
    "matplotlib",
    "scipy",
    "azure",
    "boto3",
}


@pytest.mark.parametrize("module", ["app", "predictor"])
def test_serving_loads_nothing_heavy(module: str) -> None:
    program = (
        f"import sys, detection_assets.serving.{module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    )
    root = Path(__file__).parents[2]
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert not HEAVY & set(loaded.stdout.split())
    if module == "predictor":
        assert "fastapi" not in loaded.stdout.split()
