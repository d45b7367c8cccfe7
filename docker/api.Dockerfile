# The control plane: the API and, with another command, the migrations.
# Build from the root of the checkout: docker build --file docker/api.Dockerfile .
FROM python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The hub's library wants a folder that it may write to.
ENV HF_HOME=/tmp/huggingface

RUN useradd --system --uid 10001 --no-create-home farm
WORKDIR /opt/enginefarm

# What is installed changes seldom, the rooms often: an editable install lets them come later, in layers of their own.
# pip installs nothing whose hash is not in the lock. The lock is complete, and also has what builds the checkout.
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
RUN pip install --no-deps --require-hashes --requirement requirements/server.txt \
    && pip install --no-deps --no-build-isolation --editable .

COPY enginefarm enginefarm
COPY toolchains toolchains
COPY models models
COPY migrations migrations
COPY api api

USER farm
EXPOSE 8000
CMD ["python", "-m", "api"]
