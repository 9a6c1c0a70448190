# make run, make test, make lint, make bench: each sets up all that it needs in .venv and build/.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := pyproject.toml setup.py $(shell find src -name '*.py' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' ! -name '*_generated.h')
TRACE ?=
GUESTS ?=

.PHONY: run test test-live lint bench guests clean

run: $(VENV)/.ready-run
	@$(BIN)/ptcore compare $(TRACE)
	@$(BIN)/ptcore compare guest_memfd --size 300 --strategies all
	@$(BIN)/ptcore validate vmalloc $(TRACE)
	@$(BIN)/ptcore validate iommu
	@$(BIN)/ptcore validate published

test: $(VENV)/.ready-test
	$(BIN)/python -m pytest

# The tests of live machines, with QEMU, gdb and a real kernel fetched: wants Debian, root and a network.
test-live: $(VENV)/.ready-test
	@sh tools/live-system.sh
	$(BIN)/python tests/guests/make.py --fetch x86_64-4level
	$(BIN)/python -m pytest tests/ptcore/live tests/ptcore/interop/test_gdb.py tests/ptcore/memory/images

lint: $(VENV)/.ready-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# mypy has no word for "src/strategies is ptcore.strategies": it reads a copy where it stands so.
	@rm -rf build/types && mkdir -p build/types
	@cp -r src/ptcore build/types/ptcore && cp -r src/strategies build/types/ptcore/strategies
	$(BIN)/mypy

# Boots real kernels and keeps their page tables: wants QEMU, apt and a network, takes some ten minutes.
guests: $(VENV)/.ready-test
	$(BIN)/python tests/guests/make.py $(GUESTS)

bench: $(VENV)/.ready-bench
	$(BIN)/python bench/run.py

$(VENV)/.ready-venv: tools/check-system.sh
	@python=$$(sh tools/check-system.sh) && "$$python" -m venv $(VENV)
	@$(PIP) install --quiet --upgrade "pip>=25.1"
	@touch $@

# The build's own tools are installed too, so that a rebuild needs no isolated environment.
$(VENV)/.ready-run: $(VENV)/.ready-venv $(SOURCES)
	@echo "setting up: building ptcore and installing what it needs (some minutes, once; build/install.log says what it does)"
	@mkdir -p build
	@$(PIP) install "setuptools>=77" "Cython>=3.1,<3.4" >build/install.log 2>&1 && \
		$(PIP) install --no-build-isolation --editable ".[cli]" >>build/install.log 2>&1 || \
		{ cat build/install.log; exit 1; }
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready-run
	@$(PIP) install --quiet --group test
	@touch $@

$(VENV)/.ready-lint: $(VENV)/.ready-run
	@$(PIP) install --quiet --group lint
	@touch $@

$(VENV)/.ready-bench: $(VENV)/.ready-run
	@$(PIP) install --quiet --group bench
	@touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info src/ptcore/table/formats_generated.h
	find src -name '*.so' -delete
	find src -name '*.pyx' | sed 's/\.pyx$$/.c/' | xargs rm -f
