# Targets: service-cpu (default, no torch), train.
ARG BASE=python:3.11-slim

FROM ${BASE} AS environment
COPY pyproject.toml constraints.txt /app/
WORKDIR /app
RUN python3 -m venv /venv && /venv/bin/pip install --no-cache-dir pip==26.1 \
 && /venv/bin/pip install --no-cache-dir --constraint constraints.txt --group service

FROM environment AS train
RUN /venv/bin/pip install --no-cache-dir --constraint constraints.txt --group train
COPY . /app
ENTRYPOINT ["/venv/bin/python", "-m", "model"]

FROM ${BASE} AS service-cpu
COPY --from=environment /venv /venv
COPY service /app/service
COPY bundles /app/bundles
COPY LICENSE NOTICE /app/
WORKDIR /app
USER 65532:65532
ENV RERANK_HOST=0.0.0.0 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["/venv/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["/venv/bin/python", "-m", "service"]
