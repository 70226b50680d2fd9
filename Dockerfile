# Two images, selected by --target:
#   api     serves the API and the queue, has no device slots and no torch
#   worker  serves the API as well and runs jobs; PyTorch's wheels include CUDA, the runtime provides the node's driver
#
#   docker build --target worker -t secateur-worker:0.1.0 .
#   docker build --target worker -t secateur-worker:0.1.0-cpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
#   docker build --target api -t secateur-api:0.1.0 .
#
# docs/operations.md explains how to pin the base by digest and how to get a bill of materials.
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm


# What the images have in common: Python with predictable settings, and an unprivileged user.
FROM ${PYTHON_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PATH=/opt/secateur/bin:$PATH \
    HOME=/tmp \
    SECATEUR_DATA_DIR=/data \
    SECATEUR_LISTEN=0.0.0.0:50051 \
    SECATEUR_METRICS_LISTEN=0.0.0.0:9464
RUN install -d -o 10001 -g 10001 -m 0750 /data


# Dependencies come first and from four files only, so that a source change does not reinstall them.
FROM base AS api-build
# Set explicitly, because pip would look below HOME; this is the image's default cache folder, which hadolint knows.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_CACHE_DIR=/root/.cache/pip
WORKDIR /build
RUN python -m venv /opt/secateur \
    && mkdir -p client/secateur service/secateur_service \
    && touch client/secateur/__init__.py service/secateur_service/__init__.py
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt '.[api,words,postgres,traces]'


FROM api-build AS worker-build
# Empty: the default index, whose wheels are for CUDA. Only torch itself comes from this index.
ARG TORCH_INDEX=
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
    && pip install -c constraints.txt '.[service,words,tasks,postgres,traces]'
COPY client client
COPY service service
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --force-reinstall .


FROM api-build AS api-installed
COPY client client
COPY service service
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --force-reinstall .


FROM base AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Secateur" \
      org.opencontainers.image.description="Prunes large language models for the languages their users speak" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /data
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
    CMD ["python", "-m", "secateur_service.health"]
ENTRYPOINT ["secateur-service"]
CMD ["serve"]


FROM runtime AS worker
# Triton builds a kernel for the SparseGPT sweep when it first runs on a GPU, and needs a compiler for this; without
# one, the sweep runs in torch, which is slower. Debian's security updates would break a pinned version.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=worker-build /opt/secateur /opt/secateur
USER 10001:10001


FROM runtime AS api
ENV SECATEUR_DEVICES=""
COPY --from=api-installed /opt/secateur /opt/secateur
USER 10001:10001
