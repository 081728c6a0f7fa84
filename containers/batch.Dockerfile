# syntax=docker/dockerfile:1
#
# What a batch endpoint of Azure ML runs, for whoever sets DETECTION_AZURE_BATCH:
#
#   docker build -f containers/batch.Dockerfile -t detection-batch:1 .
#
# It is the server's code without the server, and the packages that Azure ML's own driver wants. These do not fit what
# requirements.lock pins (NumPy, Arrow, azure-identity), so they have a lock of their own, in which the network's runtime
# and the decoders have the same versions: `uv pip compile` with the group `serving`, azureml-core,
# azureml-dataset-runtime[fuse] and pandas.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY requirements.lock containers/batch.lock ./
RUN python -m pip install --no-cache-dir --constraint requirements.lock uv
RUN uv venv --python /usr/local/bin/python /opt/venv
RUN uv pip install --no-cache --compile-bytecode --python /opt/venv/bin/python --requirement batch.lock

FROM ${BASE}
# Root, as Azure ML's driver expects it, and a job has the machine to itself. Nothing listens here.
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/detection
COPY LICENSE ./
COPY detection_assets/__init__.py detection_assets/object_store.py detection_assets/
COPY detection_assets/domain detection_assets/domain
COPY detection_assets/serving detection_assets/serving
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/detection PYTHONUNBUFFERED=1 HOME=/tmp DO_NOT_TRACK=1
# Azure ML starts its driver itself.
CMD ["python", "-c", "import detection_assets.serving.batch"]
