# Every target has its line in `make help`.
# Make one argument of the shell, spaces and quotes included.
quoted = '$(subst ','\'',$(1))'
# A path with the characters that an address gives another meaning.
HASH := \#
in_url = $(subst ?,%3F,$(subst $(HASH),%23,$(subst %,%25,$(1))))
# An empty variable counts as absent.
override PYTHON := $(or $(PYTHON),python3)
# Without BUNDLE the service takes RERANK_BUNDLE or RERANK_MODELS, or the committed bundle.
SERVED := $(if $(BUNDLE),--bundle $(call quoted,$(BUNDLE)))
override BUNDLE := $(or $(BUNDLE),bundles/ranklens/1)
DATA := build/ranklens
CONFIG := model/configs/served.yaml
CHECKPOINT := build/checkpoints/ranklens
# The gate opens at the most uncertain twentieth of the choices, although plain relevance earns
# nothing by it on this data (docs/inference.md). GATE= leaves the choice to validation.
GATE := --entropy-quantile 0.95
PIP := 26.1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

ifeq ($(origin CXX),default)
CXX := c++
endif
export CXX

.DEFAULT_GOAL := help
.PHONY: help setup native serve test lint train export report bench load loop client wheel docs image clean

help: ## show these lines
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

define install # $(1) environment, $(2) dependency group
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet pip==$(PIP)
	$(1)/bin/python -m pip install --quiet --constraint constraints.txt --group $(2)
	touch $(1)/.installed
endef

.venv-service/.installed: pyproject.toml constraints.txt
	$(call install,.venv-service,service)

.venv/.installed: pyproject.toml constraints.txt
	$(call install,.venv,dev)

# The service runs the ONNX graph where the native decode loop cannot be built.
define try_native
	@if ! command -v $(firstword $(CXX)) >/dev/null; then \
	  echo "native: not built, because there is no $(CXX); the service runs the ONNX graph"; \
	elif $(MAKE) --silent --no-print-directory -C native; then \
	  echo "native: built into build/native"; \
	else echo "native: the build failed; the service runs the ONNX graph"; fi >&2
endef

setup: .venv/.installed ## install everything for development into .venv

native: ## build the native decode loop into build/native; SANITIZE=1 for ASan and UBSan
	$(MAKE) --no-print-directory -C native

# The entity store and the page /playground of `make serve`, unless the variables say otherwise.
serve: export RERANK_STATE ?= lmdb://$(call in_url,$(CURDIR))/build/state
serve: export RERANK_PLAYGROUND ?= true

serve: .venv-service/.installed ## serve BUNDLE, or what RERANK_* says, on 127.0.0.1:8000 (no torch)
	$(try_native)
	.venv-service/bin/python -m service $(SERVED)

# Work is stolen test by test, so that no process is left with a whole slow module at the end.
test: lint ## lint, types, then all tests
	failed=0; \
	.venv/bin/python -m pytest -m "not alone" --numprocesses 2 --dist worksteal || failed=1; \
	.venv/bin/python -m pytest -m alone || failed=1; \
	exit $$failed

lint: setup ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

train: setup ## prepare RankLens and train evaluator and generator (resumes)
	.venv/bin/python -m model prepare ranklens --out $(call quoted,$(DATA))
	.venv/bin/python -m model train --config $(call quoted,$(CONFIG)) \
	  --data $(call quoted,$(DATA)/warm) --out $(call quoted,$(CHECKPOINT))

export: setup ## export the trained checkpoint as a verified bundle
	.venv/bin/python -m export --checkpoint $(call quoted,$(CHECKPOINT)) \
	  --out $(call quoted,$(BUNDLE)) $(GATE)

report: setup ## train and compare over seeds, write docs/reports (resumes)
	test -d $(call quoted,$(DATA)/warm) || \
	  .venv/bin/python -m model prepare ranklens --out $(call quoted,$(DATA))
	.venv/bin/python -m model report --data $(call quoted,$(DATA)) --out docs/reports

bench: setup ## the highest rate that a service started for it answers with p99 within 30 ms
	.venv/bin/python -m loadtest capacity --bundle $(call quoted,$(BUNDLE))

load: setup ## Locust for a minute against a service started for it; fails where the SLO is missed
	.venv/bin/python -m loadtest load --bundle $(call quoted,$(BUNDLE))

.venv-release/.installed: pyproject.toml constraints.txt
	$(call install,.venv-release,release)

loop: setup ## the whole circle in miniature: serve, explore, learn, promote, with simulated users
	.venv/bin/python -m loadtest loop --smoke

client: .venv-release/.installed ## build and check the client's wheel and sdist into build/client
	rm -rf build/client
	.venv-release/bin/python -m build --no-isolation --outdir build/client client
	.venv-release/bin/python -m twine check --strict build/client/*
	$(PYTHON) -m venv build/client/venv
	build/client/venv/bin/python -m pip install --quiet build/client/*.whl
	cd build/client && venv/bin/python -W error -c "from rerank_client import AsyncClient, Client"

wheel: .venv-release/.installed ## build and check the native library's wheel and sdist into build/wheel
	rm -rf build/wheel
	.venv-release/bin/python -m build --no-isolation --outdir build/wheel/plain native
	PATH="$(CURDIR)/.venv-release/bin:$$PATH" .venv-release/bin/auditwheel repair \
	  --wheel-dir build/wheel build/wheel/plain/*.whl
	mv build/wheel/plain/*.tar.gz build/wheel
	.venv-release/bin/python -m twine check --strict build/wheel/*.whl build/wheel/*.tar.gz
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet --no-index build/wheel/*.whl
	cd build/wheel && venv/bin/python -W error -c \
	  "import ctypes, eglr_rerank_native as native; ctypes.CDLL(native.library_path())"

# The generator has an environment of its own, with what the service and its client import.
build/docs/venv/.installed: docs/site/requirements.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv build/docs/venv
	build/docs/venv/bin/python -m pip install --quiet pip==$(PIP)
	build/docs/venv/bin/python -m pip install --quiet --constraint constraints.txt \
	  --group service --group client
	build/docs/venv/bin/python -m pip install --quiet --requirement docs/site/requirements.txt
	touch $@

docs: build/docs/venv/.installed ## build the documentation into build/docs/site
	build/docs/venv/bin/python -m docs.site \
	  $(if $(DOCS_VERSION),--version $(call quoted,$(DOCS_VERSION)))

image: ## build the service image with docker or buildah
	if command -v docker >/dev/null && docker info >/dev/null 2>&1; then \
	  docker build --target service-cpu -t eglr-rerank .; \
	else buildah bud --format docker --target service-cpu -t eglr-rerank .; fi

clean: ## remove environments and build output
	rm -rf .venv .venv-service .venv-release build
