# A worker for the trtllm toolchain: NVIDIA's release image, and the farm beside what is in it.
# Build from the root of the checkout: docker build --file docker/trtllm.Dockerfile --build-arg TRTLLM_VERSION=1.2.1 .
# Releases before 1.0 have no release image: `--build-arg BASE=nvcr.io/nvidia/tritonserver:24.12-trtllm-python-py3` (0.16.0),
# with the release's examples folder mounted at ENGINEFARM_TRTLLM_EXAMPLES. The farm needs Python 3.11 or newer in it.
ARG TRTLLM_VERSION
ARG BASE=nvcr.io/nvidia/tensorrt-llm/release:${TRTLLM_VERSION}
FROM ${BASE}
ARG BASE
# Recorded with every attempt and engine: two builds of one release may still come from two images.
ENV ENGINEFARM_IMAGE=${BASE}

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The hub's library wants a folder that it may write to.
ENV HF_HOME=/tmp/huggingface

# The sandbox of the programs.
RUN apt-get update && apt-get install --yes --no-install-recommends bubblewrap && rm -rf /var/lib/apt/lists/*

RUN useradd --system --uid 10001 --no-create-home farm && install --directory --owner farm /var/tmp/enginefarm
WORKDIR /opt/enginefarm

# The farm and TensorRT-LLM want different versions of the same packages, so the farm gets an environment of its own.
# It looks through to the image's packages to read TensorRT-LLM's version there. Its folder is not on PATH: `python3` and
# `trtllm-build` stay the image's. PIP_CONSTRAINT is emptied because NVIDIA's images may pin packages by it.
# pip installs nothing whose hash is not in the lock, which is complete.
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
RUN python3 -m venv --without-pip --system-site-packages venv \
    && PIP_CONSTRAINT= python3 -m pip --python venv/bin/python install \
        --no-deps --require-hashes --requirement requirements/server.txt \
    && PIP_CONSTRAINT= python3 -m pip --python venv/bin/python install --no-deps --no-build-isolation --editable .

COPY enginefarm enginefarm
COPY toolchains toolchains
COPY models models
COPY migrations migrations
COPY workers workers

ENV ENGINEFARM_TRTLLM_EXAMPLES=/app/tensorrt_llm/examples
USER farm
CMD ["/opt/enginefarm/venv/bin/python", "-m", "workers"]
