# Everything a fresh Debian machine with Go needs: make run (the main job) and make test. Both install what is missing and are safe to repeat.

EXAMPLE ?= greeting-service
ARGS    ?=

GO      ?= go
STRIP   := -trimpath -ldflags '-s -w'
STEPS   := checkout-source containerfile-build publish-image generate-workload-cr

.PHONY: help build run test lint docs clean

help: ## Show the targets
	@echo "Stepwright turns a Git revision into a container image and an OpenChoreo Workload."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  EXAMPLE=<folder under examples>   what make run builds (default $(EXAMPLE))"
	@echo "  ARGS='--keep-serving …'           more flags for stepwright run; see bin/stepwright run --help"

build: ## Build the steps and the stepwright command into bin/
	@echo "Building bin/ ($(STEPS) stepwright)"
	@mkdir -p bin
	@CGO_ENABLED=0 $(GO) build $(STRIP) -o bin/ $(addprefix ./steps/,$(STEPS)) ./ci/stepwright

run: ## Take an example from Git to a Workload, on this machine, with nothing else running
	@ci/install/install.sh run
	@$(MAKE) --no-print-directory build
	@bin/stepwright run --base-images auto --source examples/$(EXAMPLE) $(ARGS) examples/$(EXAMPLE)

test: ## Lint, then run every test against real parts, with the race detector
	@ci/install/install.sh test
	@$(MAKE) --no-print-directory lint
	$(GO) test -race -timeout 20m ./...

lint: ## gofmt, go vet, staticcheck, and who may import whom
	@echo "gofmt"; unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test ./ci/lint

docs: ## Write docs/ anew from the schemas
	$(GO) run ./ci/docs

clean: ## Remove what the other targets made, but for Go's own caches
	rm -rf bin dist
