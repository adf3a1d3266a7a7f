# aipod: `make help` lists what there is.
SHELL := /bin/bash -euo pipefail
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Pinned tools, built from the Go module proxy into .tools.
TOOLS := $(CURDIR)/.tools
export PATH := $(TOOLS):$(PATH)
BUF := $(TOOLS)/buf-v1.75.0
PROTOC_GEN_GO := $(TOOLS)/protoc-gen-go-v1.36.12
PROTOC_GEN_CONNECT_GO := $(TOOLS)/protoc-gen-connect-go-v1.21.1
GOLANGCI_LINT := $(TOOLS)/golangci-lint-v2.15.0
GRPCURL := $(TOOLS)/grpcurl-v1.9.4
CONFORMANCE := $(TOOLS)/connectconformance-v1.0.7
# The page's tools and libraries, which npm installs as web/package-lock.json says.
WEB := web/node_modules/.package-lock.json
TOXIPROXY := $(TOOLS)/toxiproxy-server-v2.5.0

.PHONY: help
help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  %-16s %s\n", $$1, $$2 }'

.PHONY: test
test: lint generate-check unit web-test fuzz cross e2e ## Install what is needed and run all checks and tests

.PHONY: unit
unit: ## Run the Go tests with the race detector
	go build -race ./...
	go test -race -p 1 ./... # one package at a time: many tests are about time
	go test -count 1 -run 'Allocations|Memory' ./...

.PHONY: lint
lint: $(BUF) $(GOLANGCI_LINT) ## gofmt, go vet, golangci-lint, buf lint, buf breaking
	test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	go vet -tags e2e ./e2e/...
	golangci-lint run ./...
	golangci-lint run --build-tags e2e ./e2e/...
	for module in e2e/conformance bench/peers; do (cd $$module && go vet ./... && golangci-lint run ./...); done
	buf lint
	./proto/breaking.sh

.PHONY: generate
generate: $(BUF) $(PROTOC_GEN_GO) $(PROTOC_GEN_CONNECT_GO) $(WEB) ## Generate gen/ and web/src/gen from proto/, and what the conformance suite needs
	buf generate
	./e2e/conformance/generate.sh

.PHONY: generate-check
generate-check: $(BUF) $(PROTOC_GEN_GO) $(PROTOC_GEN_CONNECT_GO) $(WEB) ## Check that gen/ is what proto/ says, and web/dist what web/src does
	rm -rf .tools/check && mkdir -p .tools/check
	buf generate --output .tools/check
	./e2e/conformance/generate.sh --output ../../.tools/check/conformance
	diff -r gen .tools/check/gen && diff -r web/src/gen .tools/check/web/src/gen && diff -r e2e/conformance/gen .tools/check/conformance/gen || \
	  { echo "generated code is not current: run make generate and commit it" >&2; exit 1; }
	cd web && npx tsc --noEmit && npx vite build --logLevel warn --outDir ../.tools/check/dist --emptyOutDir
	diff -r web/dist .tools/check/dist || { echo "the page is not current: run make web and commit web/dist" >&2; exit 1; }

.PHONY: web
web: $(WEB) ## Build the page into web/dist
	cd web && npm run --silent build

.PHONY: web-test
web-test: $(WEB) ## Test the page's code that needs no browser
	cd web && npm test --silent

.PHONY: cross
cross: ## Compile for the platforms that are supported
	for p in linux/amd64 linux/arm64 darwin/arm64 windows/amd64; do \
	  echo "$$p"; GOOS=$${p%/*} GOARCH=$${p#*/} CGO_ENABLED=0 go build -o /dev/null ./cmd/...; done

.PHONY: e2e
e2e: $(BUF) $(GRPCURL) $(CONFORMANCE) $(TOXIPROXY) ## Run the pod against real clients, proxies and the conformance suite
	./e2e/install.sh
	go test -tags e2e -count 1 -timeout 20m ./e2e/
	cd bench/peers && go test ./...
	./e2e/conformance/run.sh

KILLS ?= 200

.PHONY: torture
torture: ## Kill a pod KILLS times under its jobs, and say what that cost
	AIPOD_E2E_KILLS=$(KILLS) go test -tags e2e -count 1 -timeout 60m -run TestKills -v ./e2e/

# Calls and not seconds: up to Go 1.26 a time limit may itself be reported as a
# failure, "context deadline exceeded" (golang/go#75804).
FUZZTIME ?= 2000x

.PHONY: fuzz
fuzz: ## Fuzz each target for FUZZTIME, 10m or 2000x
	grep -r --include='*_test.go' -o '^func Fuzz[A-Za-z0-9]*' . | while IFS=: read -r file func; do \
	  go test -run '^$$' -fuzz "^$${func#func }$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$(dirname "$$file")"; done

.PHONY: bench
bench: ## Run the Go benchmarks
	go test -run '^$$' -bench . -benchmem ./...

.PHONY: peers
peers: ## Measure against other systems on a quiet machine, 40 minutes, and write docs/BENCHMARKS.md
	./bench/peers/run.sh

.PHONY: links
links: ## Measure adaptive sending on shaped links and write docs/links.md; needs Linux, root, ip and tc
	go run ./e2e/links

.PHONY: clean
clean: ## Remove the tools and what the tests made
	rm -rf .tools bin e2e/artifacts e2e/node/node_modules web/node_modules web/lib

# install builds a pinned tool and gives it its plain name, too.
define install
	GOBIN=$(TOOLS) go install $(1)@$(2)
	mv $(TOOLS)/$(notdir $(1)) $@
	ln -sf $(notdir $@) $(TOOLS)/$(notdir $(1))
endef

# No package's own scripts are run: none is needed.
$(WEB): web/package-lock.json
	cd web && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

$(BUF):
	$(call install,github.com/bufbuild/buf/cmd/buf,v1.75.0)
$(PROTOC_GEN_GO):
	$(call install,google.golang.org/protobuf/cmd/protoc-gen-go,v1.36.12)
$(PROTOC_GEN_CONNECT_GO):
	$(call install,connectrpc.com/connect/cmd/protoc-gen-connect-go,v1.21.1)
$(GOLANGCI_LINT):
	$(call install,github.com/golangci/golangci-lint/v2/cmd/golangci-lint,v2.15.0)
$(GRPCURL):
	$(call install,github.com/fullstorydev/grpcurl/cmd/grpcurl,v1.9.4)
$(TOXIPROXY): # whose command is named server
	GOBIN=$(TOOLS)/toxiproxy go install github.com/Shopify/toxiproxy/v2/cmd/server@v2.5.0
	mv $(TOOLS)/toxiproxy/server $@ && rmdir $(TOOLS)/toxiproxy
	ln -sf $(notdir $@) $(TOOLS)/toxiproxy-server
$(CONFORMANCE):
	$(call install,connectrpc.com/conformance/cmd/connectconformance,v1.0.7)
