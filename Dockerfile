# Targets: service-cpu (default, without torch), service-gpu, load (Locust), train.
# Build with `docker build -t eglr-rerank .` or `buildah bud --format docker -t eglr-rerank .`
ARG BASE=python:3.11.14-slim-bookworm
ARG CUDA=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04

# The decode loop for the platform that is built, with every instruction set of it.
FROM ${BASE} AS native
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update && apt-get install -y --no-install-recommends g++ make \
 && rm -rf /var/lib/apt/lists/*
COPY constraints.txt ./
COPY native native
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /build && /build/bin/pip install pip==26.1 \
 && /build/bin/pip wheel --no-deps --build-constraint constraints.txt --wheel-dir /wheels ./native

FROM ${BASE} AS environment
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /venv && /venv/bin/pip install pip==26.1 \
 && /venv/bin/pip install --constraint constraints.txt --group service
COPY --from=native /wheels /wheels
RUN /venv/bin/pip install --no-index /wheels/*.whl \
 && rm -rf /venv/lib/python3*/site-packages/pip* /venv/bin/pip*

FROM ${BASE} AS train
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /venv && /venv/bin/pip install pip==26.1 \
 && /venv/bin/pip install --constraint constraints.txt --group train
COPY service service
COPY model model
COPY export export
COPY pages pages
COPY data data
RUN useradd --uid 65532 --create-home train && mkdir build && chown train build
USER 65532:65532
ENV ORT_DISABLE_TELEMETRY=1
ENTRYPOINT ["/venv/bin/python", "-m", "model"]

FROM ${BASE} AS load
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1
WORKDIR /app
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /venv && /venv/bin/pip install pip==26.1 \
 && /venv/bin/pip install --constraint constraints.txt --group load
COPY loadtest loadtest
COPY pages pages
COPY bundles bundles
USER 65532:65532
EXPOSE 8089
ENTRYPOINT ["/venv/bin/locust"]
CMD ["-f", "loadtest/locustfile.py"]

FROM ${CUDA} AS service-gpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update && apt-get install -y --no-install-recommends python3=3.12.* python3-venv=3.12.* \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY pyproject.toml constraints.txt ./
# Install one runtime, never both: they share a directory and break each other.
RUN --mount=type=cache,target=/root/.cache/pip \
    sed -i 's/onnxruntime==/onnxruntime-gpu==/' pyproject.toml constraints.txt \
 && python3 -m venv /venv && /venv/bin/pip install pip==26.1 \
 && /venv/bin/pip install --constraint constraints.txt --group service
COPY service service
COPY bundles bundles
COPY LICENSE NOTICE ./
USER 65532:65532
ENV RERANK_HOST=0.0.0.0 RERANK_PROVIDER=cuda ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["/venv/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["/venv/bin/python", "-m", "service"]

FROM ${BASE} AS service-cpu
LABEL org.opencontainers.image.title="eglr-rerank" \
      org.opencontainers.image.description="Re-ranks candidate lists with a model that reasons where the choice is uncertain" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=environment /venv /venv
WORKDIR /app
COPY service service
COPY bundles bundles
COPY LICENSE NOTICE ./
USER 65532:65532
ENV RERANK_HOST=0.0.0.0 ORT_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8000
STOPSIGNAL SIGTERM
# The exec form needs no shell at run time.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["/venv/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["/venv/bin/python", "-m", "service"]
