# syntax=docker/dockerfile:1
#
# Serves one ONNX model on SageMaker and Azure ML, or anywhere:
#
#   docker build -f containers/serving.Dockerfile -t detection-serving:1 .
#   docker run --read-only --tmpfs /tmp -v "$PWD/model:/opt/ml/model:ro" -p 127.0.0.1:8080:8080 detection-serving:1
#
# No training library is in it. Python's version is the one that the tests run on. A tag can be moved by its owner: where
# that matters, build with --build-arg BASE=python@sha256:..., which `docker buildx imagetools inspect` tells.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml requirements.lock ./
RUN python -m pip install --no-cache-dir --constraint requirements.lock uv
RUN uv venv --python /usr/local/bin/python /opt/venv
# For endpoints of Azure ML with an entry script: --build-arg ALSO=azureml-inference-server-http
ARG ALSO=""
RUN uv pip install --no-cache --compile-bytecode --python /opt/venv/bin/python \
  --constraint requirements.lock --group serving ${ALSO}

FROM ${BASE}
# No USER: SageMaker expects its containers to start as root, and puts the model there as root. `serve` goes on as this
# user. Elsewhere the container may be started as any user, too.
RUN groupadd --gid 10001 detection && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin detection
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/detection
COPY LICENSE ./
COPY detection_assets/__init__.py detection_assets/object_store.py detection_assets/
COPY detection_assets/domain detection_assets/domain
COPY detection_assets/serving detection_assets/serving
COPY --chmod=755 containers/serve /usr/local/bin/serve
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/detection PYTHONUNBUFFERED=1 HOME=/tmp DO_NOT_TRACK=1
RUN python -m compileall -q detection_assets
# SageMaker may choose the port, and says so in SAGEMAKER_BIND_TO_PORT.
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true
EXPOSE 8080
# For Docker and its like; SageMaker and Azure ML ask /ping themselves.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import os, urllib.request as ask; ask.urlopen('http://127.0.0.1:%s/ping' % os.environ.get('SAGEMAKER_BIND_TO_PORT', 8080), timeout=2)"]
CMD ["serve"]
