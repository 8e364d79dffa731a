"""A model's space in Optuna's terms, and drawing a point from it through Optuna's define-by-run interface."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from study.hyperparameter import HYPERPARAMETERS
from study.plan import Choices, Interval, ModelPlan, Parameter


def distributions(model: ModelPlan) -> dict[str, BaseDistribution]:
    """The distributions that ``suggest`` names to Optuna, by hyperparameter, but not where there is a single value."""
    found: dict[str, BaseDistribution] = {}
    for name, rule in HYPERPARAMETERS.items():
        domain = model.space[name]
        if isinstance(domain, Interval) and rule.whole:
            found[name] = IntDistribution(int(domain.low), int(domain.high), log=domain.log)
        elif isinstance(domain, Interval):
            found[name] = FloatDistribution(domain.low, domain.high, log=domain.log)
        elif isinstance(domain, Choices):
            found[name] = CategoricalDistribution(domain.values)
    return {name: distribution for name, distribution in found.items() if not distribution.single()}


def suggest(trial: Trial, model: ModelPlan) -> dict[str, Parameter]:
    """All hyperparameters of a trial that apply, fixed ones included; only searched ones become Optuna parameters."""
    chosen: dict[str, Parameter] = {}
    for name, rule in HYPERPARAMETERS.items():
        if not rule.applies(model.cell, chosen):
            continue
        domain = model.space[name]
        if isinstance(domain, Interval) and rule.whole:
            chosen[name] = trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log)
        elif isinstance(domain, Interval):
            chosen[name] = trial.suggest_float(name, domain.low, domain.high, log=domain.log)
        elif isinstance(domain, Choices):
            picked = trial.suggest_categorical(name, domain.values)
            chosen[name] = domain.values[domain.values.index(picked)]
        else:
            chosen[name] = domain
    return chosen
