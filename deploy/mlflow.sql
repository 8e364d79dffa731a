-- Run once by the postgres image, in an empty volume: MLflow and Optuna both keep a table alembic_version.
CREATE DATABASE mlflow;
