# Every target sets itself up: a machine with Python 3.11+, Node 20+ and make is enough; `make test`
# installs a browser where it is root.
PYTHON ?= python3
BIN := .venv/bin
# Node 20 has reached its end of life; jsii says so in a banner on every call.
export JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION := 18,20,22
export CDK_DISABLE_VERSION_CHECK := 1
# Hundreds of processes import the same modules, which each would compile anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup system-packages demo test test-machine test-fast soak fuzz check format lock synth bench gpu-check wheel image docs docs-site recording clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

# $(call install,PYTHON,LIST): pip takes minutes to read the indexes that uv reads in seconds, but knows
# the mirrors that it is configured for, which uv does not.
install = $(BIN)/uv pip install --quiet --no-deps --require-hashes --python $(1) -r $(2) || \
	  $(BIN)/python -m pip --python $(1) install --quiet --no-deps --require-hashes -r $(2)

.venv/.installed: requirements/uv.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "runctl is developed with Python 3.11 or newer; set PYTHON=…")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	$(call install,$(BIN)/python,requirements/dev.txt)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

node_modules/.installed: package-lock.json
	npm ci --silent --no-fund --no-audit
	@touch $@

# What the example trainers need, so that no test contacts an index.
build/wheels/.downloaded: requirements/examples.txt .venv/.installed
	$(BIN)/python -m pip download --quiet --require-hashes --only-binary :all: -d build/wheels -r requirements/examples.txt
	@touch $@

# What the hooks are tested against, and LitServe. A build of torch for the CPU is enough, where pip
# finds one; it is not part of setup because elsewhere it takes gigabytes.
build/frameworks/.installed: requirements/frameworks.txt requirements/torch.txt requirements/torch-cpu.txt .venv/.installed
	$(PYTHON) -m venv --clear --without-pip build/frameworks
	$(call install,build/frameworks/bin/python,requirements/frameworks.txt)
	for list in torch-cpu torch; do \
	  $(BIN)/python -m pip --python build/frameworks/bin/python install --quiet --no-deps --require-hashes \
	    -r requirements/$$list.txt && break; done
	@touch $@

# The tools that bench/checkpoint.py and bench/gang.py compare with, apart from rclone, which is not
# a Python package; torch, which most of them need, comes from build/frameworks.
build/bench/.installed: requirements/bench.txt build/frameworks/.installed
	$(PYTHON) -m venv --clear --without-pip build/bench
	$(call install,build/bench/bin/python,requirements/bench.txt)
	build/bench/bin/python -c 'import site; print(site.getsitepackages()[0])' | while read -r here; do \
	  build/frameworks/bin/python -c 'import site; print(site.getsitepackages()[0])' > "$$here/frameworks.pth"; done
	@touch $@

# What the tests build the container image from, since they have no network: a base image of Debian's
# packages, and what the Dockerfile downloads.
build/image/base.tar: Dockerfile
	@mkdir -p build/image; rm -rf build/image/base
	@packages=$$(sed -n 's/^ *\(ca-certificates .*[^ ]\) *\\$$/\1/p' Dockerfile | tr ' ' ,); \
	suite=$$(sed -n 's/^ARG BASE=debian:\(.*\)-slim$$/\1/p' Dockerfile); \
	debootstrap --variant=minbase --include="$$packages" "$$suite" build/image/base \
	  > build/image/debootstrap.log 2>&1 || { tail -n 20 build/image/debootstrap.log; exit 1; }
	tar -C build/image/base --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' \
	  --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' -cf $@.partial .
	rm -rf build/image/base
	mv $@.partial $@

# For the Python of the base image, which need not be this one; wheels name glibc in two ways.
build/image/wheels/.downloaded: requirements/image.txt build/image/base.tar .venv/.installed
	rm -rf build/image/wheels
	machine=$$(uname -m); \
	version=$$(tar -tf build/image/base.tar | sed -n 's#^./usr/bin/python\(3\.[0-9]*\)$$#\1#p'); \
	$(BIN)/python -m pip download --quiet --require-hashes --only-binary :all: \
	  --python-version "$$version" --platform "manylinux_2_28_$$machine" \
	  --platform "manylinux_2_17_$$machine" --platform "manylinux2014_$$machine" \
	  --dest build/image/wheels --requirement requirements/image.txt
	@touch $@

build/image/npm/.downloaded: package-lock.json node_modules/.installed
	rm -rf build/image/npm
	npm cache add --silent --cache build/image/npm \
	  "aws-cdk@$$(node -p "require('./package.json').dependencies['aws-cdk']")"
	@touch $@

# What the machines of tests/machine boot from: systemd and what Ubuntu's images have, on the packages
# of the image. A machine changes an overlay, never this folder. An engine would run at each boot, so
# the test that needs it starts it.
MACHINE_PACKAGES := $(shell cat tests/machine/packages.txt)
build/machine/.installed: build/image/base.tar tests/machine/packages.txt
	rm -rf build/machine
	mkdir -p build/machine/root
	tar -C build/machine/root -xpf build/image/base.tar
	@cd build/machine/root; \
	cp /etc/resolv.conf etc/resolv.conf; \
	printf 'path-exclude=/usr/share/%s/*\n' man doc locale > etc/dpkg/dpkg.cfg.d/machine; \
	echo force-unsafe-io >> etc/dpkg/dpkg.cfg.d/machine; \
	printf '#!/bin/sh\nexit 101\n' > usr/sbin/policy-rc.d; chmod 755 usr/sbin/policy-rc.d; \
	[ -e dev/null ] || mknod -m 666 dev/null c 1 3; \
	chroot . sh -c 'export DEBIAN_FRONTEND=noninteractive; apt-get -qq update && \
	  apt-get -qq install --yes --no-install-recommends $(MACHINE_PACKAGES) && apt-get clean && \
	  systemctl disable docker.service docker.socket containerd.service' \
	  > ../install.log 2>&1 || { tail -n 20 ../install.log; exit 1; }; \
	rm -rf usr/sbin/policy-rc.d etc/resolv.conf var/lib/apt/lists/*
	@touch $@

IMAGE_PARTS := build/image/base.tar build/image/wheels/.downloaded build/image/npm/.downloaded

# What the tests need from the system: systemd-nspawn for the real machines, a browser for the pages that attack the local cloud, a Docker
# engine for the container image and for training in containers, a registry and a shell for the images
# of the tests. Only root can install and use them, on Debian and its derivatives; others run the
# rest, except with CI=true.
system-packages:  ## as root, install what the tests need from the system
	@mkdir -p build; \
	missing=; left_out=; \
	{ command -v chromium-headless-shell || command -v chromium || command -v google-chrome; } \
	  > /dev/null || missing="chromium-headless-shell"; \
	command -v dockerd > /dev/null || missing="$$missing docker.io"; \
	command -v debootstrap > /dev/null || missing="$$missing debootstrap"; \
	command -v docker-registry > /dev/null || missing="$$missing docker-registry"; \
	command -v busybox > /dev/null || missing="$$missing busybox-static"; \
	command -v systemd-nspawn > /dev/null || missing="$$missing systemd-container"; \
	command -v ip > /dev/null || missing="$$missing iproute2"; \
	[ -z "$(KERNEL)" ] || { command -v linux.uml && command -v cc; } > /dev/null || \
	  missing="$$missing $(KERNEL)"; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  if [ -n "$$missing" ]; then \
	    echo "installing $$missing"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    { apt-get -qq update && \
	      apt-get -qq install --yes --no-install-recommends $$missing; \
	    } > build/apt-get.log 2>&1 || { cat build/apt-get.log; exit 1; }; \
	  fi; \
	  $(MAKE) --silent --no-print-directory $(IMAGE_PARTS) build/machine/.installed || exit 1; \
	else \
	  left_out="tests of containers (docker.io, docker-registry, busybox-static, debootstrap)"; \
	  left_out="$$left_out, tests on real machines (systemd-container, debootstrap)"; \
	  case "$$missing" in chromium*) \
	    left_out="$$left_out, tests in a browser (chromium-headless-shell)";; esac; \
	fi; \
	[ "$$(id -u)" = 0 ] || left_out="tests as another user, $$left_out"; \
	if [ -n "$$left_out" ]; then \
	  echo "left out, because they need root: $$left_out"; [ "$$CI" != true ]; fi

setup: .venv/.installed node_modules/.installed build/wheels/.downloaded  ## install everything into .venv, node_modules and build

demo: setup  ## a run that is interrupted three times, on the local cloud
	$(BIN)/runctl demo

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=25

# The end-to-end tests wait more than they compute, so there are two more workers than the smallest
# machine has cores. Real processes under that load can miss a time limit: up to eight tests that failed
# are run once more, alone; tests/plugins/reruns.py names them at the end.
test: setup build/frameworks/.installed system-packages  ## all tests, the end-to-end ones included
	RUNCTL_UNUSED_PERMISSIONS=fail $(PYTEST) -n 4 || \
	$(PYTEST) -p tests.plugins.reruns --last-failed --last-failed-no-failures none

# A kernel that runs as a process, for one file of tests; Debian has it for these processors only.
test-machine: KERNEL := $(if $(filter x86_64,$(shell uname -m)),user-mode-linux gcc libc6-dev)
test-machine: setup system-packages  ## the tests on real machines that systemd boots, as root
	CI=true RUNCTL_ALL_MACHINES=1 $(PYTEST) tests/machine

test-fast: setup  ## the tests without real instances
	$(BIN)/python -m pytest -q -n 2 -m "not e2e and not slow"

soak: setup  ## interrupt a run 50 times at random moments, and account for everything
	RUNCTL_SOAK_INTERRUPTIONS=$${RUNCTL_SOAK_INTERRUPTIONS:-50} $(BIN)/python -m pytest -q -s tests/e2e/test_soak.py

fuzz: setup  ## an hour of untrusted data: manifests, archives, settings, metrics, files
	RUNCTL_FUZZ_SECONDS=$${RUNCTL_FUZZ_SECONDS:-3600} $(BIN)/python -m pytest -q -s --timeout 0 tests/fuzz

check: setup  ## format, lint, types, imports, spelling, vocabulary, dead code, locks, templates
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports
	git ls-files -z | xargs -0 $(BIN)/codespell
	$(BIN)/vulture
	$(BIN)/python -m pytest -q tests/docs/test_vocabulary.py
	$(BIN)/shellcheck instance_scripts/*.sh .ci/run
	$(BIN)/python requirements/audit.py
	$(BIN)/python -m stacks.check
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms \
	  $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))

format: setup  ## format and fix what can be fixed
	$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

synth: setup  ## the CloudFormation templates, into cdk.out
	PATH="$(CURDIR)/$(BIN):$$PATH" node_modules/.bin/cdk synth --quiet

bench: setup build/bench/.installed  ## the benchmarks, each against its peer in the same run
	$(BIN)/python -m bench.startup
	$(BIN)/python -m bench.cold_start
	$(BIN)/python bench/recovery.py
	$(BIN)/python -m bench.serve
	$(BIN)/python -m bench.checkpoint
	$(BIN)/python -m bench.environment
	$(BIN)/python -m bench.process
	$(BIN)/python -m bench.process --kill 10000
	$(BIN)/python -m bench.gang

gpu-check: setup  ## what a container sees of this machine's GPUs, if it has any
	$(BIN)/python -m bench.gpu_check

wheel: setup  ## the wheel, into dist
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

image:  ## the container image, with the local cloud for machines that are not Linux
	docker build --tag runctl .

docs: setup  ## the reference pages that are derived from code
	$(BIN)/python docs/reference/generate.py

docs-site: setup  ## the documentation as a site, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

recording: setup  ## the demo as an animated picture, for the README
	$(BIN)/python docs/record.py docs/assets/demo.svg $(BIN)/runctl demo

# $(call lock,LIST,OPTIONS,FOLDER), in the folder requirements unless another is named
lock = $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --no-header --no-emit-index-url \
	  --no-emit-find-links --no-emit-trusted-host $(2) \
	  --output-file $(or $(3),requirements)/$(1).txt $(or $(3),requirements)/$(1).in

lock: setup  ## rewrite the lock files from requirements/*.in
	$(call lock,uv,--allow-unsafe)
	$(call lock,dev,--allow-unsafe)
	$(call lock,examples,)
	$(BIN)/uv pip compile --quiet --no-deps --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --output-file requirements/torch.txt requirements/torch.in
	$(call lock,frameworks,--unsafe-package torch)
	$(call lock,bench,--unsafe-package torch)
	$(call lock,image,--allow-unsafe)
	$(call lock,plots,,lambdas)

clean:  ## remove what the targets made
	rm -rf .venv node_modules build cdk.out .mypy_cache .ruff_cache .pytest_cache .hypothesis
