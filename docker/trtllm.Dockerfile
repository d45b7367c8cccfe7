# A worker for the trtllm toolchain: an image with a TensorRT-LLM, and the farm in it with a Python of its own.
# Build from the root of the checkout: docker build --file docker/trtllm.Dockerfile --build-arg TRTLLM_VERSION=1.2.1 .
# Releases before 1.0 have no release image: `--build-arg BASE=nvcr.io/nvidia/tritonserver:24.07-trtllm-python-py3` (0.11.0).
# The base may have any Python, such as the 3.10 of the releases up to 0.15: nothing of the farm runs in it, and nothing of
# the base is changed but a user that is added. The base needs glibc 2.28 or newer.
ARG TRTLLM_VERSION
ARG BASE=nvcr.io/nvidia/tensorrt-llm/release:${TRTLLM_VERSION}

# uv brings a Python that runs with any glibc. That of the image python:3.11 needs the glibc of its Debian, which is newer
# than that of Ubuntu 22.04. uv knows the digest of each Python that it fetches.
FROM python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b AS own-python
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ENV UV_PYTHON_INSTALL_DIR=/opt/enginefarm/python UV_PYTHON_PREFERENCE=only-managed UV_NO_CACHE=1 UV_LINK_MODE=copy
WORKDIR /opt/enginefarm
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
RUN pip install --no-deps --require-hashes --requirement requirements/uv.txt
RUN uv python install 3.11 && uv venv --python 3.11 venv
# No package whose hash is not in the lock, which is complete. The wheels must fit the base's glibc, not that of this stage.
RUN uv pip install --python venv --python-platform "$(uname -m)-manylinux_2_28" \
        --no-deps --require-hashes --requirement requirements/server.txt
RUN uv pip install --python venv --no-deps --no-build-isolation --editable .

FROM ${BASE}
ARG BASE
# Recorded with every attempt and engine: two builds of one release may still come from two images.
ENV ENGINEFARM_IMAGE=${BASE}
# The hub's library wants a folder that it may write to.
ENV HF_HOME=/tmp/huggingface
USER root
RUN useradd --system --uid 10001 --no-create-home farm && install --directory --owner farm /var/tmp/enginefarm /var/cache/enginefarm
WORKDIR /opt/enginefarm
# The sandbox's bubblewrap is among the packages: that of older bases is too old. The environment is not on PATH:
# `python3` and `trtllm-build` stay the base's.
COPY --from=own-python /opt/enginefarm /opt/enginefarm
COPY enginefarm enginefarm
COPY toolchains toolchains
COPY models models
COPY migrations migrations
COPY workers workers
USER farm
# -I: a PYTHONPATH of the base is for the base's Python. -u, because -I leaves PYTHONUNBUFFERED aside, too.
CMD ["/opt/enginefarm/venv/bin/python", "-I", "-u", "-m", "workers"]
