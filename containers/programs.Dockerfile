# syntax=docker/dockerfile:1
#
# What jobs run in (extract, train, evaluate, predict), on SageMaker and Azure ML alike, and what Dagster itself runs in:
#
#   docker build -f containers/programs.Dockerfile --target programs -t detection-programs:1 .
#   docker build -f containers/programs.Dockerfile --target dagster -t detection-programs:1-dagster .
#
# The second is the first with Dagster on top, so a step that is to run `here`, beside its run, finds its program; a
# registry keeps what both have once. Python's version is the one that the tests run on. A tag can be moved by its owner:
# where that matters, build with --build-arg BASE=python@sha256:..., which `docker buildx imagetools inspect` tells.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml requirements.lock ./
RUN python -m pip install --no-cache-dir --constraint requirements.lock uv
RUN uv venv --python /usr/local/bin/python /opt/venv
RUN uv pip install --no-cache --compile-bytecode --python /opt/venv/bin/python \
  --constraint requirements.lock --group programs

FROM ${BASE} AS programs
# Root, for SageMaker expects it of its containers: /opt/ml/checkpoints, /opt/ml/output and the inputs are root's, and a
# job has the machine to itself. Nothing listens here, and what comes in is the lake's own.
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/detection
COPY LICENSE ./
COPY detection_assets detection_assets
COPY --chmod=755 containers/train /usr/local/bin/train
# The CUDA libraries come with PyTorch; the host's driver is let in by the two NVIDIA_ variables.
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/detection PYTHONUNBUFFERED=1 DO_NOT_TRACK=1 YOLO_OFFLINE=1 \
  NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# No ENTRYPOINT: a job says itself what it starts, `python -m detection_assets.launcher --order ...`; and where it cannot,
# SageMaker starts `train`.
CMD ["python", "-m", "detection_assets.launcher", "--help"]

FROM programs AS dagster
COPY pyproject.toml requirements.lock README.md ./
COPY resources resources
COPY jobs jobs
# Packages that an instance needs and requirements.lock does not pin, as "dagster-postgres==0.29.27" for Postgres.
ARG ALSO=""
RUN --mount=type=bind,from=build,source=/usr/local/bin/uv,target=/usr/local/bin/uv \
  uv pip install --no-cache --compile-bytecode --python /opt/venv/bin/python --constraint requirements.lock \
  --editable '.[aws,azure]' ${ALSO}
COPY detectors detectors
# An instance for each cloud; on Azure DAGSTER_HOME says the other one.
COPY infra/aws/dagster /opt/dagster
COPY infra/azure/dagster /opt/dagster-azure
RUN groupadd --gid 10001 dagster && useradd --uid 10001 --gid 10001 --create-home dagster \
  && chown dagster /opt/dagster /opt/dagster-azure
USER dagster
WORKDIR /home/dagster
# The commit that it was built from, which runs tell of themselves.
ARG REVISION=""
ENV DETECTION_REVISION=$REVISION
ENV DAGSTER_HOME=/opt/dagster DETECTION_HOME=/home/dagster MLFLOW_DISABLE_TELEMETRY=true GIT_PYTHON_REFRESH=quiet
CMD ["dagster-webserver", "--host", "0.0.0.0", "--port", "3000", "--workspace", "/opt/dagster/workspace.yaml"]
