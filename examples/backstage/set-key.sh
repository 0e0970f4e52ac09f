#!/bin/sh
# Gives one key of the portal's Secret its value, which comes from standard input and is on no command line. The other keys stay as they are.
#
#   ./set-key.sh jenkins-api-key < file        or without < and a file: type it, then Enter and Ctrl-D; the end of the line does not count
#
# NAMESPACE and SECRET say where. Restart the portal afterwards: kubectl rollout restart deployment/backstage --namespace openchoreo-control-plane
set -eu
namespace=${NAMESPACE:-openchoreo-control-plane} name=${SECRET:-backstage-secrets} key=${1:?is the key to set}
case $key in
*[!a-z0-9-]*) echo "set-key: $key is not the name of a key" >&2; exit 2 ;;
esac
# The value goes from pipe to pipe: no variable of the shell, which set -x would show, ever has it.
{
	printf '{"data": {"%s": "' "$key"
	tr -d '\r\n' | base64 | tr -d '\n'
	printf '"}}'
} | kubectl patch secret "$name" --namespace "$namespace" --type merge --patch-file /dev/stdin
