# make demo · test · test-backends · test-oldest · lint · copies · recipes · results
# Each makes its environment, .venv, .venv-backends or .venv-oldest, when it is missing.
PYTHON ?= python3
RUN = .venv/bin/python
BACKENDS = tests/test_backends.py
export PYTHONPATH = tests/support

.PHONY: demo test test-backends test-oldest lint copies recipes results

demo: .venv/ready
	$(RUN) tests/tools/demo.py

# Each process of pytest has a core of its own; for the allocator see tests/README.md.
test: export OMP_NUM_THREADS = 1
test: export TF_NUM_INTRAOP_THREADS = 1
test: export MALLOC_MMAP_MAX_ = 0
test: export MALLOC_TRIM_THRESHOLD_ = -1
test: export MALLOC_ARENA_MAX = 1
test: .venv/ready
	@echo "The tests take about three minutes on two cores."
	$(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
	  --no-loadscope-reorder $(addprefix --ignore=,$(BACKENDS))

test-backends: .venv-backends/ready
	.venv-backends/bin/python -m pytest $(BACKENDS)

# Generation with AUGMENTATION, then a training, an evaluation and the exports of each example.
test-oldest: .venv-oldest/ready
	.venv-oldest/bin/python -m pytest -m oldest --numprocesses 2 --dist loadfile

lint: .venv/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

copies: .venv/ready
	$(RUN) tests/tools/copies.py

recipes: .venv/ready
	$(RUN) tests/tools/refresh_recipes.py

results: .venv/ready
	$(RUN) tests/tools/results.py $(PHOTOS)

# What only the tests need, in the releases that they were run with. PyPI's torch brings several GB
# for NVIDIA's GPUs; pip takes a CPU build of the same release where it finds one, as with PyTorch's
# own index for CPUs in PIP_EXTRA_INDEX_URL.
INSTALL = -m pip install
EXPORTS = ai-edge-litert==2.3.0 onnxruntime==1.23.2 tf2onnx==1.17.0 onnx==1.23.2
.venv/ready: MORE = $(EXPORTS) tensorboard==2.21.0 supervision==0.31.2 pycocotools==2.0.11
.venv-backends/ready: MORE = torch==2.13.0 'jax<=0.10.2'
# The lower bounds of requirements.txt, which uv can install and pip cannot.
.venv-oldest/ready: MORE = $(EXPORTS)
.venv-oldest/ready: INSTALL = -m pip install uv==0.13.9 && \
  .venv-oldest/bin/python -m uv pip install --resolution lowest-direct

# imaug brings opencv-python, which needs the libGL.so.1 that a server without a screen lacks. There
# opencv-python-headless, which imaug brings too but the other overwrites, is put in its place.
.venv/ready .venv-backends/ready .venv-oldest/ready: requirements.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(PYTHON) is not Python 3.11 to 3.13: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Once: 3 GB of packages come down into $(@D). It takes minutes; pip says what it is doing."
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(INSTALL) --requirement requirements.txt pytest==9.2.0 \
	  pytest-xdist==3.8.0 ruff==0.17.6 hypothesis==6.170.15 $(MORE)
	@$(@D)/bin/python -c 'import cv2' 2>/dev/null || { \
	  $(@D)/bin/python -m pip uninstall --quiet --yes opencv-python && \
	  $(@D)/bin/python -m pip install --quiet --force-reinstall --no-deps \
	    'opencv-python-headless<4.13'; }
	@touch $@
