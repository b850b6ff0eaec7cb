# syntax=docker/dockerfile:1
# Two images from one file: `--target gateway` (no torch) and `--target worker` (CUDA comes with torch's own wheels).
FROM python:3.12-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin xmag \
    && install -d -o xmag -g xmag /var/lib/xmag
WORKDIR /opt/xmag

FROM base AS gateway-packages
COPY requirements/service.txt requirements/service.txt
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --require-hashes -r requirements/service.txt

FROM base AS worker-packages
COPY requirements/worker.txt requirements/worker.txt
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --require-hashes -r requirements/worker.txt

FROM base AS code
COPY pyproject.toml README.md ./
COPY xmag xmag
COPY service service
COPY worker worker
COPY training training
COPY cli cli
COPY migrations migrations
COPY benchmarks benchmarks
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM base AS gateway
COPY --from=gateway-packages /opt/venv /opt/venv
COPY --from=code /wheels /wheels
RUN /opt/venv/bin/pip install --no-deps /wheels/*.whl
ENV PATH=/opt/venv/bin:$PATH XMAG_DATA=/var/lib/xmag XMAG_ENV=production XMAG_HOST=0.0.0.0
USER xmag
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
CMD ["xmag", "serve"]

FROM base AS worker
# torch.compile needs a C compiler on a GPU; without one the network runs eager
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=worker-packages /opt/venv /opt/venv
COPY --from=code /wheels /wheels
RUN /opt/venv/bin/pip install --no-deps /wheels/*.whl
ENV PATH=/opt/venv/bin:$PATH XMAG_DATA=/var/lib/xmag XMAG_ENV=production \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility XMAG_METRICS_PORT=9101
USER xmag
HEALTHCHECK --interval=15s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9101/metrics', timeout=2)"]
CMD ["xmag", "worker"]
