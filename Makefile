# Everything a fresh Debian machine with Go needs: make run (the main job) and make test. Both install what is missing and are safe to repeat.

EXAMPLE ?= greeting-service
ARGS    ?=
BENCH   ?= .

GO      ?= go
STRIP   := -trimpath -ldflags '-s -w'
IMAGES  := $(GO) run ./images
STEPS   := checkout-source containerfile-build buildpacks-build scan-gate publish-image generate-workload-cr commit-status

ARCHITECTURES ?= amd64 arm64
# Besides Linux, for which the steps are: what people and other CIs run, on the systems that they have.
SYSTEMS   ?= darwin windows
ANYWHERE  ?= ./steps/generate-workload-cr ./cmd/stepwright
BINARIES ?= dist/bin

# Tests of which the race detector makes minutes, and their packages.
UNRACED    := ^(TestPackBombs|TestLargeDeltas|TestMemoryOfDeltas|TestEndlessAnswers|TestEveryInterleaving|TestBuildsOfExamples|TestLinear)$$
UNRACED_IN := ./internal/quote ./internal/redact ./steps/internal/gitsource ./steps/internal/workload ./steps/internal/buildpack ./internal/testimage/testbuilders

# Tests with long tables, of which they take some cases by chance.
SAMPLED    := ^(TestCopiesWithoutLayersBelow|TestIgnoreFiles|TestOneCommitOneDigest|TestEveryInterleaving|TestBuildsOfExamples|TestBuildpackExamples|TestBlocks)$$
SAMPLED_IN := ./steps/internal/dockerfile ./steps/internal/workload ./internal/testimage/testbuilders ./internal/cli ./ci/site

comma := ,
empty :=
space := $(empty) $(empty)

.PHONY: help build run site test test-short verifiers gitea fuzz faults lint generate pictures bench load images push-images bundle cluster-up cluster-down e2e soak binaries release publish clean

help: ## Show the targets
	@echo "Stepwright turns a Git revision into a container image and an OpenChoreo Workload."
	@echo
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  EXAMPLE=<folder under examples>   what make run builds (default $(EXAMPLE))"
	@echo "  ARGS='--keep-serving …'           more flags for stepwright run; see bin/stepwright run --help"
	@echo "  VERSION=<version>                 of make release, and of make images (default what git describe says)"
	@echo "  REGISTRY=<host>[:port][/path]     where make push-images publishes <path>/<step>:<version>; PLAIN_HTTP=1 where it is on this machine"
	@echo "  FOLDER=<folder>                   where make publish puts the files of a release, in a folder v<version>"
	@echo "  CLUSTER=kind                      cluster-up, cluster-down and e2e on a cluster of kind; see ci/cluster"
	@echo "  OPENCHOREO=1.2.0                  another version of OpenChoreo than the newest, of cluster-up and e2e"
	@echo "  KUBERNETES=1.36                   another version of Kubernetes than 1.33, likewise"
	@echo "  SIGNING_KEY=<file>                private key that make publish signs with; SIGNING_PASSWORD=<file> if it is encrypted"
	@echo "  OVERLAY=<folder>                  what make bundle writes (default the planes as they are)"
	@echo "  BENCH=<regular expression>      which benchmarks make bench runs; see docs/reference/performance.md"
	@echo "  ROUNDS=<number>                   how often make bench runs each contender (default 5)"
	@echo "  EXHAUSTIVE=1                      make test takes all cases of long tables, and not some of them by chance"
	@echo "  DIGESTS=<folder of image layouts> whose digests make bundle puts in"

build: ## Build the steps and the stepwright command into bin/
	@echo "Building bin/ ($(STEPS) stepwright)"
	@mkdir -p bin
	@CGO_ENABLED=0 $(GO) build $(STRIP) -o bin/ $(addprefix ./steps/,$(STEPS)) ./cmd/stepwright

binaries: ## Write the binaries as a release has them, with SHA256SUMS, into dist/bin
	@rm -rf '$(BINARIES)' && mkdir -p '$(BINARIES)'
	@build() { CGO_ENABLED=0 GOOS=$$1 GOARCH=$$2 GOFLAGS= $(GO) build -buildvcs=false $(STRIP) -o '$(BINARIES)'/$${3##*/}_$$1_$$2$$4 $$3; }; \
	for architecture in $(ARCHITECTURES); do \
	  for program in $(sort $(addprefix ./steps/,$(STEPS)) $(ANYWHERE)); do build linux $$architecture $$program || exit; done; \
	  for system in $(SYSTEMS); do for program in $(ANYWHERE); do \
	    case $$system in windows) suffix=.exe;; *) suffix=;; esac; build $$system $$architecture $$program $$suffix || exit; \
	  done; done; \
	done
	@cd '$(BINARIES)' && sha256sum *_* > SHA256SUMS && cat SHA256SUMS

run: ## Take an example from Git to a Workload, on this machine, with nothing else running
	@ci/install/install.sh run
	@$(MAKE) --no-print-directory build
	@CGO_ENABLED=0 $(GO) build $(STRIP) -o bin/ ./ci/mirror
	@bin/mirror --if-unreachable --for examples/$(EXAMPLE) -- bin/stepwright run {} --source examples/$(EXAMPLE) $(ARGS) examples/$(EXAMPLE)

test: ## Lint, then run every test against real parts, with the race detector
	@ci/install/install.sh test
	@$(MAKE) --no-print-directory lint
	$(GO) test -race -timeout 20m -skip '$(UNRACED)' $$($(GO) list ./... | grep -v -e /ci/attacks$$ -e /internal/dockerfile$$)
	@# Builds take three times as long under the race detector, so a few are. It sees nothing of the released binaries.
	$(GO) test -race -timeout 20m ./steps/internal/dockerfile -run '^(TestBuild|TestLayerCache|TestRecordedTimes|TestCancel)$$'
	$(GO) test -timeout 20m -run '$(UNRACED)' $(UNRACED_IN)
	$(GO) test -timeout 20m -parallel 6 ./steps/internal/dockerfile ./ci/attacks
	$(if $(EXHAUSTIVE),$(GO) test -timeout 40m -parallel 6 $(SAMPLED_IN) -run '$(SAMPLED)' -exhaustive)

test-short: ## The quick tests, for every change: no package to install, no root, no containers
	$(GO) test -short ./...

verifiers: ## Test examples/policies with Kyverno and policy-controller, and examples/observability with promtool, which take minutes to compile
	@ci/install/install.sh test
	$(GO) test -tags verifiers -timeout 60m ./examples/policies ./examples/observability

gitea: ## Test commit statuses against a real Gitea, which takes minutes to compile, and gcc
	$(GO) test -tags gitea -timeout 60m ./steps/internal/commitstatus -run '^TestGitea$$'

fuzz: ## Feed what reads strangers' bytes with what a fuzzer makes: TIME=30s for each target, ONLY=<regular expression> for some, RECORD=1 writes docs/reference/fuzzing.md
	$(GO) run ./ci/fuzz --time '$(or $(TIME),30s)' --only '$(ONLY)' $(if $(SAVE),--save '$(SAVE)') $(if $(RECORD),--record docs/reference)

faults: ## Break something while steps run, and write docs/reference/reliability.md: ONLY=<regular expression> for some cells, CHANCE=<number> for other moments
	@ci/install/install.sh test
	$(GO) test ./ci/faults -run '^TestMatrix$$' -count=1 -timeout 60m -parallel 3 -exhaustive -only '$(ONLY)' -chance '$(or $(CHANCE),1)' -docs ../../docs/reference

lint: ## gofmt, golangci-lint, actionlint, and the rules of the project in ci/lint
	@echo "gofmt"; unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	$(GO) tool -modfile=ci/lint/golangci/go.mod golangci-lint run
	$(GO) tool -modfile=ci/lint/actionlint/go.mod actionlint
	$(GO) test ./ci/lint

generate: ## Write anew what is generated in docs, schemas, templates and examples
	$(GO) run ./ci/generate
	$(GO) test ./internal/cli -run '^TestReference$$' -update

site: ## Render the guide as static pages with a search, in dist/site
	@$(GO) run ./ci/site --out dist/site

pictures: ## Write the pictures of runs in docs/pictures anew, with Chromium
	@ci/install/install.sh test
	$(GO) test ./ci/picture -count=1 -pictures '$(CURDIR)/docs/pictures'

bench: ## Measure steps beside what they replace, and write docs/reference/performance.md; BENCH=<regular expression> for some
	@ci/install/install.sh bench
	$(GO) test ./ci/bench -run '^$$' -bench '$(BENCH)' -benchtime 1x -timeout 0 -docs ../../docs/reference $(if $(ROUNDS),-rounds '$(ROUNDS)')

load: ## Measure many runs at once, and write docs/reference/scale.md; needs root: RUNS=10,100 for some, LOAD='-rate 20' for other flags
	@ci/install/install.sh e2e
	@$(GO) run ./ci/load $(if $(RUNS),-runs '$(RUNS)') $(LOAD)

images: ## Make the steps' images: OCI layouts in dist/images, without a container daemon
	@ci/install/install.sh images
	@$(IMAGES) build $(if $(VERSION),--version '$(VERSION)') --arch '$(subst $(space),$(comma),$(ARCHITECTURES))'

push-images: ## Make the steps' images and publish them: REGISTRY=…, with the credentials of docker login
	$(if $(REGISTRY),,$(error make push-images needs REGISTRY=<host>[:port][/path]))
	@$(MAKE) --no-print-directory images
	@$(IMAGES) push --registry '$(REGISTRY)' $(if $(PLAIN_HTTP),--plain-http)

bundle: ## Write single-file installs, dist/workflow-plane.yaml and dist/control-plane.yaml
	@$(GO) run ./ci/release bundle $(if $(DIGESTS),--digests '$(DIGESTS)') $(OVERLAY)

release: ## Make what VERSION=x.y.z is published as, in dist/release: images, programs, chart, installs, checksums
	$(if $(VERSION),,$(error make release needs VERSION=x.y.z))
	@ci/install/install.sh images-arm64
	@$(GO) run ./ci/release build --version '$(VERSION)' --arch '$(subst $(space),$(comma),$(ARCHITECTURES))'

publish: ## Publish dist/release: images and chart to REGISTRY=…, with the credentials of docker login, files to FOLDER=…, signed with SIGNING_KEY=…
	@$(GO) run ./ci/release publish $(if $(REGISTRY),--registry '$(REGISTRY)') $(if $(FOLDER),--folder '$(FOLDER)') $(if $(PLAIN_HTTP),--plain-http) \
	  $(if $(SIGNING_KEY),--signing-key '$(SIGNING_KEY)') $(if $(SIGNING_PASSWORD),--signing-password '$(SIGNING_PASSWORD)')

cluster-up: ## Start a Kubernetes of one node with Argo and OpenChoreo, on this machine: see ci/cluster
	@$(if $(CLUSTER),,ci/install/install.sh cluster)
	@$(GO) run ./ci/cluster up

cluster-down: ## End it and remove all that it has left
	@$(GO) run ./ci/cluster down

e2e: ## Test the templates on a Kubernetes with Argo and OpenChoreo of their own; needs root: E2E='-run <tests>' for some
	@ci/install/install.sh e2e
	@$(if $(CLUSTER),ci/install/install.sh $(CLUSTER))
	@$(GO) run ./ci/e2e $(E2E)

soak: ## Build for hours on such a cluster, and look at what grows; needs root: DURATION=2h, RECORD=1 writes docs/reference/soak.md
	@ci/install/install.sh e2e
	@$(GO) run ./ci/e2e -soak '$(or $(DURATION),2h)' $(if $(RECORD),-soak-report docs/reference)

clean: ## Remove what the other targets made, but for Go's own caches
	rm -rf bin dist
