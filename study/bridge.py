"""What the conductor tells of a study, put on cards for MLflow."""

from __future__ import annotations

from collections.abc import Sequence

from study.outcome import Ending, Metric, TrialKey
from study.plan import StudyPlan
from study.record import TrialRecord
from study.spec import Spec
from study.study_file import dump_spec
from study.tracking.sink import MlflowSink, TrialCard


class SinkTracker:
    """The conductor's tracker on top of the MLflow sink: puts on each trial's card what the study knows of it."""

    def __init__(self, sink: MlflowSink, spec: Spec, plan: StudyPlan) -> None:
        """The tracker of a study that is running."""
        self._sink, self._spec, self._plan = sink, spec, plan

    def open_trial(self, record: TrialRecord) -> None:
        """Make out the trial's card, with the study file that trains it again, pruned or not."""
        self._sink.open_trial(
            TrialCard(
                key=record.key,
                task=self._plan.task.name,
                cell=self._plan.model(record.key.model).cell,
                parameters=record.parameters,
                configuration=dump_spec(self._spec.pinned(record)),
            )
        )

    def log_metrics(self, key: TrialKey, metrics: Sequence[Metric]) -> None:
        """Pass on."""
        self._sink.log_metrics(key, metrics)

    def close_trials(self, ended: Sequence[Ending]) -> None:
        """Pass on."""
        self._sink.close_trials(ended)

    def interrupt_trial(self, key: TrialKey) -> None:
        """Pass on."""
        self._sink.interrupt_trial(key)


def described_plan(plan: StudyPlan) -> dict[str, str]:
    """What the parent run says of a study, as MLflow parameters."""
    training = plan.training
    return {
        "task": plan.task.name,
        "models": ", ".join(model.name for model in plan.models),
        "ladder": ", ".join(map(str, training.ladder)),
        "lengths": f"{training.shortest} to {training.longest}",
        "n_updates": str(training.n_updates),
        "batch_size": str(training.batch_size),
        "sampler": plan.search.sampler,
        "n_trials": str(plan.search.n_trials),
        "stack_size": str(plan.search.stack_size),
        "seed": str(plan.seed),
        "device": plan.device,
    }
