#!/bin/sh
# Adds the keys of external CI to the portal's ExternalSecret, each unless it is there: run it as often as you like. It holds no secret, only the names under
# which the secret store has them.
#
#   ./add-keys.sh [KEY...]      default: jenkins-api-key github-actions-token github-oauth-client-secret
#
# NAMESPACE, EXTERNAL_SECRET and PREFIX say where, and how the names in the store begin.
set -eu
namespace=${NAMESPACE:-openchoreo-control-plane} name=${EXTERNAL_SECRET:-backstage-secrets} prefix=${PREFIX:-backstage-}
[ $# -gt 0 ] || set -- jenkins-api-key github-actions-token github-oauth-client-secret

for key in "$@"; do
	case $key in
	'' | *[!a-z0-9-]*) echo "add-keys: $key is not the name of a key" >&2; exit 2 ;;
	esac
	# The first line is the version that the others are of: if somebody changes the object meanwhile, the patch is refused.
	seen=$(kubectl get externalsecret "$name" --namespace "$namespace" \
		--output 'jsonpath={.metadata.resourceVersion}{"\n"}{range .spec.data[*]}{.secretKey}{"\n"}{end}')
	version=$(printf '%s\n' "$seen" | sed -n 1p)
	keys=$(printf '%s\n' "$seen" | sed 1d)
	if printf '%s\n' "$keys" | grep -qxF "$key"; then
		echo "$key is there"
		continue
	fi
	entry="{\"secretKey\": \"$key\", \"remoteRef\": {\"key\": \"$prefix$key\", \"property\": \"value\"}}"
	add="{\"op\": \"add\", \"path\": \"/spec/data/-\", \"value\": $entry}"
	[ -n "$keys" ] || add="{\"op\": \"add\", \"path\": \"/spec/data\", \"value\": [$entry]}"
	kubectl patch externalsecret "$name" --namespace "$namespace" --type json --patch-file /dev/stdin <<PATCH
[{"op": "test", "path": "/metadata/resourceVersion", "value": "$version"}, $add]
PATCH
done
