#!/bin/sh
# Registers an image as a component's Workload, from any machine with curl and sha256sum. Everything comes from variables:
#   NAMESPACE_NAME PROJECT_NAME COMPONENT_NAME IMAGE      what to register
#   RUN_NAME                                              the WorkflowRun to annotate, if there is one
#   OPENCHOREO_API_URL THUNDER_URL                        where
#   OAUTH_CLIENT_ID OAUTH_CLIENT_SECRET                   as whom
#   STEPWRIGHT_URL STEPWRIGHT_SHA256                      the release, and the SHA-256 of its SHA256SUMS
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for file in SHA256SUMS generate-workload-cr_linux_amd64; do
	curl --fail --silent --show-error --location --retry 3 --output "$dir/$file" "$STEPWRIGHT_URL/$file"
done
echo "$STEPWRIGHT_SHA256  $dir/SHA256SUMS" | sha256sum --check --quiet -
(cd "$dir" && sha256sum --check --quiet --ignore-missing SHA256SUMS && install generate-workload-cr_linux_amd64 generate-workload-cr)
PATH=$dir:$PATH

export NAMESPACE_NAME PROJECT_NAME COMPONENT_NAME OAUTH_CLIENT_ID OAUTH_CLIENT_SECRET
export RUN_NAME="${RUN_NAME:-}"
export API_SERVER_URL="$OPENCHOREO_API_URL" OAUTH_TOKEN_URL="$THUNDER_URL/oauth2/token"
generate-workload-cr --image="$IMAGE" --descriptor=. --results-dir="$dir/results" --wait
