"""The search for hyperparameters and its record, in Optuna."""

import optuna

# What is asked and told is in the study's own log.
optuna.logging.set_verbosity(optuna.logging.WARNING)
