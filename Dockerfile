# One image for head, workers and submitter. `make image` builds it; TORCH=cpu leaves out 4 GB of CUDA.
# Big and rarely changed layers come first: a change of the code ships kilobytes. Every package comes by hash.
# Pin what it stands on as well: make image BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm
ARG TORCH=cuda

# uv and more, by hash; only mounted below, so it is not in the image.
FROM ${BASE} AS tools
COPY requirements-build.txt /
RUN python -m venv /tools && /tools/bin/pip install --quiet --no-cache-dir --require-hashes -r /requirements-build.txt

# Fashion-MNIST as the distribution packs it.
FROM ${BASE} AS data
RUN apt-get update -qq && apt-get install -qq --no-install-recommends dataset-fashion-mnist

FROM ${BASE} AS python
# Byte code now: a read-only root keeps none, and each Python process would compile PyTorch again, for seconds.
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_PROGRESS=1 UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/venv
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp
# No program may become root: the bits of su, mount, passwd and the like are taken away.
RUN python -m venv --without-pip /opt/venv \
 && useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin trainer \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} +

# PyTorch, and all of the lock that only GPUs need.
FROM python AS torch-cuda
RUN --mount=from=tools,source=/tools,target=/tools --mount=type=cache,target=/tmp/.cache/uv \
    --mount=source=requirements.txt,target=/requirements.txt \
    awk '/^[^ #]/ {wanted = /^(torch|triton|nvidia-|cuda-)/} wanted' /requirements.txt > /tmp/wanted.txt \
 && /tools/bin/uv pip install --no-deps --require-hashes -r /tmp/wanted.txt && rm /tmp/wanted.txt

# The same PyTorch, and stubs in place of NVIDIA's libraries (tools/cpu_torch.py). It must compute, and see no GPU.
FROM python AS torch-cpu-build
RUN apt-get update -qq && apt-get install -qq --no-install-recommends binutils
RUN --mount=from=tools,source=/tools,target=/tools --mount=type=cache,target=/tmp/.cache/uv \
    --mount=source=requirements.txt,target=/requirements.txt --mount=source=tools/cpu_torch.py,target=/cpu_torch.py \
    awk '/^[^ #]/ {wanted = /^torch/} wanted' /requirements.txt > /tmp/wanted.txt \
 && /tools/bin/uv pip install --no-deps --require-hashes -r /tmp/wanted.txt \
 && /tools/bin/python /cpu_torch.py "$(echo /opt/venv/lib/python3.*/site-packages)"
FROM python AS torch-cpu
COPY --from=torch-cpu-build /opt/venv /opt/venv

FROM torch-${TORCH}
ARG TORCH
RUN --mount=from=tools,source=/tools,target=/tools --mount=type=cache,target=/tmp/.cache/uv \
    --mount=source=requirements.txt,target=/requirements.txt \
    awk -v torch=$TORCH '/^[^ #]/ {wanted = torch == "cuda" || !/^(triton|nvidia-|cuda-)/} wanted' /requirements.txt \
      > /tmp/wanted.txt \
 && /tools/bin/uv pip install --no-deps --require-hashes -r /tmp/wanted.txt && rm /tmp/wanted.txt

# Whichever PyTorch it is: without a GPU it computes on the CPU.
RUN python -c 'import torch; torch.nn.Linear(4, 2)(torch.ones(3, 4)).sum().backward(); assert not torch.cuda.is_available()'

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
