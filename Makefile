# One command each. A target that needs the environment makes it first; a second call installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export DAGSTER_HOME ?= $(CURDIR)/.dagster
# Where this is set, every start compiles a few thousand modules anew: half of the time of a command.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo story dev stop test test-aws test-azure test-cloud test-long platforms lint bench bench-peers label-studio images batch-image smoke promote-aws promote-azure lock clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

setup: $(STAMP) ## Make .venv and install what requirements.lock pins

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v < (3, 14) else f"Python 3.10 to 3.13 is needed, {v[0]}.{v[1]} was found: make PYTHON=python3.12 ...")'
	@echo "installing into $(VENV) (the first time this downloads a few GB, most of it PyTorch)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --editable '.[dev]'
	@touch $(STAMP)

demo: setup ## Sample footage, video to answering endpoint, figures in demo-report.json
	@$(BIN)/detection demo

story: setup ## A detector's life: drift, new labels, retraining, a canary, bad models rolled back
	@$(BIN)/detection story

dev: setup ## The Dagster UI with its daemon, and MLflow, over what the commands did
	@$(BIN)/detection dev

stop: setup ## Stop every endpoint
	@$(BIN)/detection stop

# The tests hand batches to a real server of Label Studio. What it stands on is no dependency of ours, and would not go
# with them: it has an environment of its own, and a database that takes longer to make than the environment.
LABEL_STUDIO := .scratch/label-studio

label-studio: $(LABEL_STUDIO)/.installed ## Make the Label Studio that the tests start: .scratch/label-studio

$(LABEL_STUDIO)/.installed: tests/label_studio/requirements.txt tests/label_studio/prepare.py tests/fakes/label_studio.py | $(STAMP)
	@echo "installing Label Studio into $(LABEL_STUDIO), for the tests"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LABEL_STUDIO)
	@$(BIN)/uv pip install --quiet --python $(LABEL_STUDIO)/bin/python --requirement tests/label_studio/requirements.txt
	@cd tests && ../$(BIN)/python -m fakes.label_studio
	@touch $@

# Four on two cores: much of what the tests do is to wait for servers. Files stay in order, or the longest come last.
test: setup label-studio ## The test suite
	@$(BIN)/python -m pytest -m 'not long and not cloud' -n 4 --dist loadfile --no-loadscope-reorder --durations 10

test-aws: setup ## The part of it that is about AWS, on stand-ins of its services
	@$(BIN)/python -m pytest -m 'not long and not cloud' -k 'aws or sagemaker or s3 or arrivals or images or platforms' -n 3 --dist loadfile --durations 10 tests/contract tests/infra tests/containers tests/e2e/test_platforms.py

test-azure: setup ## The part of it that is about Azure, on an Azurite and a stand-in of Azure ML
	@$(BIN)/python -m pytest -m 'not long and not cloud' -k 'azure or blob or arrivals or platforms' -n 3 --dist loadfile --durations 10 tests/contract tests/infra tests/jobs tests/e2e/test_platforms.py

test-cloud: setup ## The contracts in a real AWS account, the one that .env names: hours, some dollars
	@$(BIN)/python -m pytest -m cloud --timeout 14400 --durations 10 $(if $(ONLY),-k '$(ONLY)') tests/contract

test-long: setup label-studio ## The tests that the everyday suite has no time for
	@$(BIN)/python -m pytest -m long -n 2 --dist loadfile

platforms: setup ## Write docs/platforms.md: what works on which platform, as the contract's tests find it
	@$(BIN)/python -m pytest -p contract.capabilities --capabilities docs/platforms.md -m 'not long and not cloud' -n 3 --dist loadfile -q --ignore tests/contract/test_capabilities.py tests/contract

lint: setup ## ruff and pyright
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

bench: setup ## Our speed beside the anchors, as ratios in one run
	@$(BIN)/python -m benchmarks

bench-peers: setup ## Make the environment of the benchmark's peers, which are no dependencies: supervision, datumaro
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .scratch/bench-peers
	@$(BIN)/uv pip install --quiet --python .scratch/bench-peers/bin/python supervision datumaro

# What pipelines do, and people may; docs/ci.md tells the whole way. REGISTRY is the address before /detection-programs.
TAG ?= $(shell git rev-parse HEAD)
PROGRAMS = $(REGISTRY)/detection-programs:$(TAG)
SERVING = $(REGISTRY)/detection-serving:$(TAG)
BATCH = $(REGISTRY)/detection-batch:$(TAG)
POSTGRES := dagster-postgres==$(shell sed -n 's/^dagster-aws==//p' requirements.lock)
STACK ?= detection-dagster

images: ## Build the images of this commit and push them: REGISTRY=...
	@test -n "$(REGISTRY)" || { echo "REGISTRY is not set; set it to the registry's address, as <account>.dkr.ecr.<region>.amazonaws.com or <name>.azurecr.io"; exit 2; }
	docker build -f containers/programs.Dockerfile --target programs -t $(PROGRAMS) .
	docker build -f containers/programs.Dockerfile --target dagster --build-arg ALSO=$(POSTGRES) --build-arg REVISION=$(shell git rev-parse HEAD) -t $(PROGRAMS)-dagster .
	docker build -f containers/serving.Dockerfile -t $(SERVING) .
	docker push $(PROGRAMS)
	docker push $(PROGRAMS)-dagster
	docker push $(SERVING)

batch-image: ## Build the image of Azure ML's batch endpoints and push it: REGISTRY=...
	@test -n "$(REGISTRY)" || { echo "REGISTRY is not set; set it to the registry's address, as <name>.azurecr.io"; exit 2; }
	docker build -f containers/batch.Dockerfile -t $(BATCH) .
	docker push $(BATCH)

smoke: setup ## The whole graph, on the platform that the environment names, and its endpoint asked: DETECTORS="fridge ..."
	@test -n "$(DETECTORS)" || { echo 'DETECTORS is not set; name one or more, as DETECTORS="fridge surgical"'; exit 2; }
	@for name in $(DETECTORS); do \
	  $(BIN)/detection doctor $$name && $(BIN)/detection run $$name && $(BIN)/detection ask $$name || exit 1; \
	done

promote-aws: ## Let Dagster in production (stack STACK) run the images of this commit: REGISTRY=...
	@test -n "$(REGISTRY)" || { echo "REGISTRY is not set; set it to the registry's address, as <account>.dkr.ecr.<region>.amazonaws.com"; exit 2; }
	aws cloudformation deploy --stack-name $(STACK) --template-file infra/aws/production.yaml \
	  --capabilities CAPABILITY_IAM --no-fail-on-empty-changeset $(if $(DEPLOY_ROLE),--role-arn $(DEPLOY_ROLE)) \
	  --parameter-overrides Image=$(PROGRAMS)-dagster ProgramsImage=$(PROGRAMS) ServingImage=$(SERVING)

# The daemon's old revision is ended before the new one begins: two would start every run twice.
promote-azure: ## Let Dagster in production (resource group GROUP) run the images of this commit: REGISTRY=... GROUP=...
	@test -n "$(REGISTRY)" || { echo "REGISTRY is not set; set it to the registry's address, as <name>images.azurecr.io"; exit 2; }
	@test -n "$(GROUP)" || { echo "GROUP is not set; set it to the resource group of infra/azure/production.bicep"; exit 2; }
	@test -n "$(DETECTORS)" || { echo 'DETECTORS is not set; name those of infra/azure/production.bicep, as DETECTORS="fridge surgical"'; exit 2; }
	az containerapp revision deactivate --resource-group $(GROUP) --name daemon --revision \
	  $$(az containerapp show --resource-group $(GROUP) --name daemon --query properties.latestRevisionName --output tsv)
	@set -e; for app in $(foreach one,$(DETECTORS),code-$(subst _,-,$(one))) web daemon; do \
	  echo "$$app: $(PROGRAMS)-dagster"; \
	  az containerapp update --resource-group $(GROUP) --name $$app --image $(PROGRAMS)-dagster --output none \
	    --set-env-vars DAGSTER_CURRENT_IMAGE=$(PROGRAMS)-dagster DETECTION_AZURE_PROGRAMS_IMAGE=$(PROGRAMS) \
	    DETECTION_AZURE_SERVING_IMAGE=$(SERVING); \
	done

lock: setup ## Pin every extra for every supported Python in requirements.lock
	@$(BIN)/uv pip compile --universal --python-version 3.10 --all-extras --no-emit-index-url --no-header --no-annotate --quiet pyproject.toml --output-file requirements.lock

clean: ## Remove what the commands made: lake, instance, experiments, endpoints (not .venv)
	@if [ -x $(BIN)/detection ]; then $(BIN)/detection stop; fi
	@rm -rf lake .dagster .mlflow .endpoints .scratch .story demo-report.json story-report.json
