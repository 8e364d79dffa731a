"""The search for hyperparameters and its record, in Optuna."""
