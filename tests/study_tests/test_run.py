"""What a run of Tune spares the driver."""

from __future__ import annotations

import subprocess
import sys

_LOOKS = """
import sys
from ray.air._internal.usage import _count_callbacks
from ray.tune import Callback
from study.execution.run import _without_mlflow

with _without_mlflow():
    # What Tune does with the callbacks it is given.
    assert _count_callbacks([Callback()]) == {"CustomCallback": 1}
    assert "mlflow" not in sys.modules
from ray.air.integrations.mlflow import MLflowLoggerCallback, mlflow
assert mlflow.__version__
"""


def test_tune_imports_mlflow_for_whoever_wants_it_only() -> None:
    done = subprocess.run([sys.executable, "-c", _LOOKS], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
