FROM python:3.11-slim

# Triton compiles its launcher in C on the machine that trains.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*

# PyPI's torch brings gigabytes of CUDA libraries; in return one image serves workers with and without a GPU.
# The dependencies have a layer of their own, made from the metadata alone: an edit of the sources keeps it.
WORKDIR /opt/longlag
COPY LICENSE README.md pyproject.toml requirements.lock ./
RUN pip install --no-cache-dir --constraint requirements.lock '.[cluster]'
COPY tasks tasks
COPY models models
COPY study study
RUN pip install --no-cache-dir --constraint requirements.lock --no-deps --force-reinstall . && rm -rf build *.egg-info

# A new volume takes the owner of the folder that it is mounted on.
RUN useradd --create-home --uid 10001 longlag && install --directory --owner=longlag --group=longlag /data /artifacts
USER longlag
WORKDIR /data
ENV LONGLAG_HOME=/data MLFLOW_DISABLE_TELEMETRY=true RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1
ENTRYPOINT ["longlag"]
