# A worker for the aoti toolchain: PyTorch and a C++ compiler.
# Build from the root of the checkout: docker build --file docker/worker.Dockerfile .
FROM python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The hub's library wants a folder that it may write to.
ENV HF_HOME=/tmp/huggingface

# AOTInductor writes C++ and compiles it. bubblewrap is the sandbox of the programs.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ bubblewrap && rm -rf /var/lib/apt/lists/*

# A worker empties the scratch folder of its name when it starts, so two workers must never share one:
# it stays in the container's own layer and goes with the container.
RUN useradd --system --uid 10001 --no-create-home farm && install --directory --owner farm /var/tmp/enginefarm /var/cache/enginefarm
WORKDIR /opt/enginefarm

# pip installs nothing whose hash is not in the lock. torch from the default index brings CUDA libraries, some gigabytes.
# An index of CPU builds may be named; what comes from there is pinned by its version only.
ARG PIP_EXTRA_INDEX_URL=""
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY requirements requirements
RUN PIP_EXTRA_INDEX_URL= pip install --no-deps --require-hashes --requirement requirements/worker.txt \
    && if [ -z "$PIP_EXTRA_INDEX_URL" ]; \
       then pip install --no-deps --require-hashes --requirement requirements/torch.txt; \
       else pip install --constraint constraints.txt torch; fi \
    && pip install --no-deps --no-build-isolation --editable .

COPY enginefarm enginefarm
COPY toolchains toolchains
COPY models models
COPY migrations migrations
COPY workers workers

USER farm
CMD ["python", "-m", "workers"]
