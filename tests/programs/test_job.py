"""What every program does of itself: here, how it ends when it is told to."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

TIDIES = """
import sys, time
from pathlib import Path
from detection_assets.programs.job import end_in_good_order
end_in_good_order()
try:
    Path(sys.argv[1]).write_text("began")
    time.sleep(60)
finally:
    time.sleep(0.5)
    Path(sys.argv[1]).write_text("tidied")
"""


def test_told_twice_to_end_it_still_tidies_up(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    process = subprocess.Popen([sys.executable, "-c", TIDIES, str(mark)])
    while not mark.exists() or mark.read_text() != "began":
        assert process.poll() is None
        time.sleep(0.02)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert mark.read_text() == "tidied"
