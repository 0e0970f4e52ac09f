#!/bin/sh
# Registers an image as a component's Workload, from any machine with curl and sha256sum. Everything comes from variables:
#   NAMESPACE_NAME PROJECT_NAME COMPONENT_NAME IMAGE      what to register
#   RUN_NAME                                              the WorkflowRun to annotate, if there is one
#   OPENCHOREO_API_URL THUNDER_URL                        where
#   OAUTH_CLIENT_ID OAUTH_CLIENT_SECRET                   as whom
#   STEPWRIGHT_URL STEPWRIGHT_SHA256                      the release, and what sha256sum prints of its SHA256SUMS
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
case $(uname -m) in
x86_64) architecture=amd64 ;;
aarch64 | arm64) architecture=arm64 ;;
*) echo "register: there are binaries for amd64 and arm64 only" >&2; exit 1 ;;
esac
binary=generate-workload-cr_linux_$architecture
for file in SHA256SUMS "$binary"; do
	curl --fail --silent --show-error --location --retry 3 --output "$dir/$file" "${STEPWRIGHT_URL%/}/$file"
done
# What sha256sum prints counts, too: the name of the file goes with it.
sum=$(cd "$dir" && sha256sum SHA256SUMS)
if [ "${STEPWRIGHT_SHA256%% *}" != "${sum%% *}" ]; then
	echo "register: STEPWRIGHT_SHA256 is '$STEPWRIGHT_SHA256', but $STEPWRIGHT_URL/SHA256SUMS has ${sum%% *}" >&2
	exit 1
fi
(cd "$dir" && sha256sum --check --quiet --ignore-missing SHA256SUMS && install "$binary" generate-workload-cr)
PATH=$dir:$PATH

export NAMESPACE_NAME PROJECT_NAME COMPONENT_NAME OAUTH_CLIENT_ID OAUTH_CLIENT_SECRET
export RUN_NAME="${RUN_NAME:-}"
export API_SERVER_URL="$OPENCHOREO_API_URL" OAUTH_TOKEN_URL="$THUNDER_URL/oauth2/token"
generate-workload-cr --image="$IMAGE" --descriptor=. --results-dir="$dir/results" --wait
