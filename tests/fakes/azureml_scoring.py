"""What runs a batch job in the stand-in of Azure ML: its files in mini-batches, handed to processes with the script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from fakes.azureml_jobs import INSTALLED, CannotStart, FakeJob, seconds


class Driver:
    """What divides a job's files among processes."""

    def __init__(
        self,
        service: Any,
        parts: tuple[dict[str, Any], str],
        job: FakeJob,
        step: FakeJob,
        settings: Mapping[str, Any],
        asked: Mapping[str, Any],
    ) -> None:
        """Takes the workspace, code and model, the job, the step that it is for, its settings, and the request."""
        self.service, (self.code, self.model), self.settings, self.asked = service, parts, settings, asked
        self.job, self.step = job, step
        self.rows: list[str] = []
        self.failed = 0
        self.trouble: list[str] = []
        self.queue: Queue[tuple[int, list[str]]] = Queue()

    def run(self) -> None:
        """Fetches what the job needs, runs it, and uploads what it made.

        Raises:
            CannotStart: It failed, with Azure ML's words for it.
        """
        service, folder, settings = self.service, self.step.folder, self.settings
        self.step.status = "Preparing"
        for name in ("code", "model", "input", "output", "user_logs", "logs/user/stdout/0", "logs/user/error"):
            (folder / name).mkdir(parents=True)
        service.codes.download(self.code, folder / "code")
        service.jobs.fetch(self.model, folder / "model")
        (given,) = self.asked["inputData"].values()
        service.jobs.fetch(given["uri"], folder / "input")
        files = sorted(str(path) for path in (folder / "input").rglob("*") if path.is_file())
        size = settings.get("miniBatchSize") or 10
        for first in range(0, len(files), size):
            self.queue.put((0, files[first : first + size]))
        if self.job.stopping:
            return
        self.step.status, self.step.started, self.step.starts = "Running", time.time(), 1
        count = (settings.get("resources") or {}).get("instanceCount") or 1
        count *= settings.get("maxConcurrencyPerInstance") or 1
        workers = [threading.Thread(target=self._work, args=(number,)) for number in range(count)]
        for one in workers:
            one.start()
        for one in workers:
            one.join()
        self._say(f"{len(files)} files, {self.failed} of them failed")
        if self.job.stopping:
            return
        if self.trouble:
            (folder / "logs/user/error.txt").write_text("\n".join(self.trouble) + "\n")
            raise CannotStart(self.trouble[0])
        if not self.rows:
            raise CannotStart("There is no succeeded mini batch item returned from run().")
        self._upload()

    def _upload(self) -> None:
        output, uri = self.step.folder / "output", f"azureml://datastores/lake/paths/azureml/{self.step.name}/score"
        name = self.settings.get("outputFileName") or "predictions.csv"
        for one in (self.asked.get("outputData") or {}).values():
            uri = one["uri"]
            if one["jobOutputType"] == "UriFile":
                uri, _, name = uri.rpartition("/")
        if self.settings.get("outputAction") == "AppendRow":
            (output / name).write_text("".join(f"{row}\n" for row in self.rows))
        self.service.jobs.upload(output, uri)

    def _say(self, line: str) -> None:
        with (self.step.folder / "user_logs" / "std_log.txt").open("a") as log:
            log.write(f"{line}\n")

    def _work(self, number: int) -> None:
        process = None
        retry = self.settings.get("retrySettings") or {}
        limit, most = seconds(retry.get("timeout")) or 30.0, retry.get("maxRetries", 3)
        threshold = self.settings.get("errorThreshold", -1)
        while not self.job.stopping and not self.trouble:
            try:
                tried, files = self.queue.get_nowait()
            except Empty:
                break
            if process is None:
                process, told = self._start(number)
                if "failed" in told:
                    _end(process)
                    process = None
                    self.trouble.append(f"User program failed with init(): {told['failed']}")
                    break
            self._wait(self.service.batch.pause)
            if self.service.batch.dying:
                self.service.batch.dying -= 1
                process.kill()
            told = self._ask(process, files, limit)
            if told is None:
                process = None
            if told and "rows" in told:
                self.rows += told["rows"]
            elif tried < most:
                self.queue.put((tried + 1, files))
            else:
                self.failed += len(files)
                if -1 < threshold < self.failed:
                    why = told["error"] if told else "The run() function in the entry script had timeout"
                    self.trouble.append(f"{self.failed} failed items are more than the error threshold: {why}")
        if process is not None:
            _end(process)

    def _wait(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and not self.job.stopping:
            time.sleep(0.05)

    def _start(self, number: int) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        service, folder = self.service, self.step.folder
        given = {key: os.environ[key] for key in ("HOME", "OMP_NUM_THREADS") if key in os.environ}
        env = {
            **given,
            **service.certificate.environment,
            **(self.settings.get("environmentVariables") or {}),
            "MSI_ENDPOINT": f"{service.url}/msi", "MSI_SECRET": service.secret,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(INSTALLED),
            "AZUREML_MODEL_DIR": str(folder / "model"), "AZUREML_BI_OUTPUT_PATH": str(folder / "output"),
            "AZUREML_RUN_ID": self.step.name,
        }  # fmt: skip
        words = [
            sys.executable, str(Path(__file__).with_name("batch_driver.py")),
            str(folder / "code" / self.settings["codeConfiguration"]["scoringScript"]),
            str(folder / f"logs/user/stdout/0/process{number:03d}.stdout.txt"),
        ]  # fmt: skip
        process = subprocess.Popen(
            words, cwd=folder / "code", env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        threading.Thread(target=self._end_with_job, args=(process,), daemon=True).start()
        assert process.stdout is not None
        line = process.stdout.readline()
        return process, json.loads(line) if line else {"failed": "the process has died"}

    def _ask(self, process: subprocess.Popen[str], files: list[str], limit: float) -> dict[str, Any] | None:
        """What the script says of some files; None if its process is gone, or took too long."""
        assert process.stdin is not None
        assert process.stdout is not None
        ended = threading.Timer(limit, process.kill)
        ended.start()
        try:
            process.stdin.write(json.dumps(files) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            ended.cancel()
        if not line:
            _end(process)
            return None
        return json.loads(line)

    def _end_with_job(self, process: subprocess.Popen[str]) -> None:
        while process.poll() is None:
            if self.job.stopping:
                process.kill()
                return
            time.sleep(0.05)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    with suppress(BrokenPipeError):  # what it was told last, it has not read
        process.communicate()
