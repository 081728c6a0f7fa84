"""A tuning's trials in a file that outlives the process: Optuna on SQLite.

One process at a time has a study open, which the caller sees to. Whatever runs in the file when it is opened was
therefore left by a process that died or was stopped; such a trial is gone on with under its own number and values, so
that none is lost and none is doubled.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from detection_assets.domain.tuning import Choice, Real, Trial

if TYPE_CHECKING:
    from optuna import trial as optuna_trial

    from resources.compute.base import Study

ATTEMPTS = 3
"""How often a trial may take its process down with it before it counts as failed."""
STATES: Mapping[str, Literal["running", "complete", "pruned", "failed"]] = {
    "RUNNING": "running",
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
}


class StudyFile:
    """The trials of a study, kept in a file.

    Args:
        path: The SQLite file; made if missing, in a folder that is there.
        study: What is searched, and how.
    """

    def __init__(self, path: Path, study: Study) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spec = study
        self._storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        stopping = study.stopping
        self._study = optuna.create_study(
            study_name=study.version,
            storage=self._storage,
            load_if_exists=True,
            direction="maximize" if study.objective.maximize else "minimize",
            pruner=optuna.pruners.MedianPruner(stopping.after_trials, stopping.after_steps)
            if stopping
            else optuna.pruners.NopPruner(),
        )
        if study.first and not self._study.get_trials(deepcopy=False):
            self._study.enqueue_trial(dict(study.first))
        self._open: dict[int, optuna_trial.Trial] = {}
        self._left = [trial.number for trial in self.trials() if trial.state == "running"]

    def begin(self) -> Trial:
        """Begins a trial: one that was left unfinished, or else a new one.

        Returns:
            The trial; `failed` if it has taken its process down too often to be tried again.
        """
        import optuna

        if self._left:
            number = self._left.pop(0)
            study_id = self._storage.get_study_id_from_name(self._spec.version)
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
            trial = optuna.trial.Trial(self._study, trial_id)
        else:
            # A sampler that began anew after each interruption would draw the same values again.
            drawn = len(self._study.get_trials(deepcopy=False))
            self._study.sampler = optuna.samplers.TPESampler(seed=(self._spec.seed * 100_003 + drawn) % 2**32)
            trial = self._study.ask()
        self._open[trial.number] = trial
        self._suggest(trial)
        attempts = int(trial.user_attrs.get("attempts", 0))
        if attempts >= ATTEMPTS:
            return self.end(trial.number, "failed", why=f"it ended with its process {attempts} times")
        trial.set_user_attr("attempts", attempts + 1)
        return self._told(trial.number)

    def _suggest(self, trial: optuna_trial.Trial) -> None:
        for key, among in self._spec.space.items():
            # A trial that has its value already is given that value.
            if isinstance(among, Choice):
                trial.suggest_categorical(key, list(among.values))
            elif isinstance(among, Real):
                trial.suggest_float(key, among.low, among.high, log=among.log)
            else:
                trial.suggest_int(key, among.low, among.high, log=among.log)

    def report(self, number: int, step: int, value: float) -> None:
        """Keeps what a trial has reached after a step, from 1; a step that comes again after a restart is kept once."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The reported value is ignored")
            self._open[number].report(value, step)

    def hopeless(self, number: int) -> bool:
        """Whether a trial has fallen so far behind the others that it should end."""
        return self._open[number].should_prune()

    def end(
        self,
        number: int,
        state: Literal["complete", "pruned", "failed"],
        value: float | None = None,
        seconds: float = 0.0,
        why: str = "",
    ) -> Trial:
        """Ends a trial for good.

        Args:
            number: The trial's number.
            state: How it ended.
            value: What it is judged by, if it is complete.
            seconds: How long this attempt ran.
            why: Why it failed.
        """
        import optuna

        self._spent(number, seconds)
        trial = self._open.pop(number)
        if why:
            trial.set_user_attr("why", why[-2000:])
        kept = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}[state]
        self._study.tell(trial, value if state == "complete" else None, optuna.trial.TrialState[kept])
        return self._told(number)

    def leave(self, number: int, seconds: float) -> None:
        """Leaves a trial unfinished in good order, to be gone on with; that is no attempt that failed."""
        self._spent(number, seconds)
        trial = self._open.pop(number)
        trial.set_user_attr("attempts", max(0, int(trial.user_attrs.get("attempts", 1)) - 1))

    def _spent(self, number: int, seconds: float) -> None:
        trial = self._open[number]
        trial.set_user_attr("seconds", float(trial.user_attrs.get("seconds", 0.0)) + seconds)

    def trials(self) -> list[Trial]:
        """Every trial that has begun, as it is now, in the order of the numbers."""
        return [
            Trial(
                number=trial.number,
                state=STATES[trial.state.name],
                values=trial.params,
                value=self._value(trial),
                epochs=trial.intermediate_values,
                seconds=float(trial.user_attrs.get("seconds", 0.0)),
                why=str(trial.user_attrs.get("why", "")),
            )
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state.name in STATES
        ]

    def _value(self, trial: optuna_trial.FrozenTrial) -> float | None:
        if trial.state.name == "COMPLETE":
            return trial.value
        reached = trial.intermediate_values.values()
        return (max if self._spec.objective.maximize else min)(reached, default=None)

    def _told(self, number: int) -> Trial:
        return next(trial for trial in self.trials() if trial.number == number)

    def close(self) -> None:
        """Lets go of the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()
