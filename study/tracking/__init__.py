"""Curves, figures and weights, in MLflow."""
