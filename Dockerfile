# One image for head, workers and submitter. `make image` builds it; TORCH=cpu leaves out 4 GB of CUDA.
# Big and rarely changed layers come first: a change of the code ships kilobytes.
ARG BASE=python:3.11-slim-bookworm

# uv, by hash; only mounted below, so it is not in the image.
FROM ${BASE} AS tools
COPY requirements-uv.txt /
RUN python -m venv /tools && /tools/bin/pip install --quiet --no-cache-dir --require-hashes -r /requirements-uv.txt

# Fashion-MNIST as the distribution packs it.
FROM ${BASE} AS data
RUN apt-get update -qq && apt-get install -qq --no-install-recommends dataset-fashion-mnist

FROM ${BASE}
# Byte code now: a read-only root keeps none, and each Python process would compile PyTorch again, for seconds.
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_PROGRESS=1 UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/venv
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp
RUN python -m venv --without-pip /opt/venv \
 && useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin trainer

# PyTorch: cuda is PyPI's build, by hash; cpu is the same version from PyTorch's own index, which the lock cannot cover.
ARG TORCH=cuda
RUN --mount=from=tools,source=/tools,target=/tools --mount=type=cache,target=/tmp/.cache/uv \
    --mount=source=requirements.txt,target=/requirements.txt \
    case $TORCH in \
      cuda) /tools/bin/uv pip install --constraint /requirements.txt torch ;; \
      cpu) sed -nE 's/^(torch==.*) \\$/\1/p' /requirements.txt \
         | /tools/bin/uv pip install --torch-backend cpu --requirements - ;; \
      *) echo "TORCH: $TORCH is neither cpu nor cuda" >&2; exit 1 ;; \
    esac

# The rest, by hash.
RUN --mount=from=tools,source=/tools,target=/tools --mount=type=cache,target=/tmp/.cache/uv \
    --mount=source=requirements.txt,target=/requirements.txt --mount=source=pyproject.toml,target=/pyproject.toml \
    /tools/bin/uv pip install --constraint /requirements.txt --requirements /pyproject.toml --extra train --extra cluster

COPY --from=data /usr/share/datasets/fashion-mnist /usr/share/datasets/fashion-mnist

WORKDIR /app
RUN --mount=from=tools,source=/tools,target=/tools --mount=type=cache,target=/tmp/.cache/uv \
    --mount=target=/source \
    cp -r /source /tmp/source && /tools/bin/uv pip install --no-deps --no-build-isolation /tmp/source && rm -r /tmp/source

ARG VERSION
ARG REVISION
# The record of a run says which commit it was made with; there is no git here to ask.
ENV TRAINER_GIT_COMMIT=${REVISION}
LABEL org.opencontainers.image.title="fashion-mnist-on-ray" \
      org.opencontainers.image.description="Train Fashion-MNIST with PyTorch on Ray: from a laptop to a cluster" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
ENTRYPOINT ["trainer"]
CMD ["--help"]
