#!/bin/sh
# Records the runs in testdata/runs anew, which takes minutes: of one component by its Dockerfile, the first, one after a
# change, and one that fails, and of another by buildpacks. What is of the machine, such as ports, is replaced.
#
#   make build && go build -o bin/ ./ci/mirror && internal/report/testdata/record.sh
set -eu
cd "$(dirname "$0")/../../.."
bin=$PWD/bin to=$PWD/internal/report/testdata/runs work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work"

run() { # EXAMPLE NAME
	sed -i "s/^  name: $1-build-.*/  name: $2/" "$work/$1/workflowrun.yaml"
	"$bin/mirror" --if-unreachable --for "$work/$1" -- \
		"$bin/stepwright" run '{}' --state "$work/state" --source "$work/$1" "$work/$1" >"$work/log" 2>&1 || tail -3 "$work/log"
}
cp -r examples/greeting-service examples/link-shortener "$work"
run greeting-service greeting-service-build-01
sed -i 's/^package main$/package main\n\n\/\/ It greets people./' "$work/greeting-service/main.go"
printf '\nfunc init() { println("good morning") }\n' >>"$work/greeting-service/main.go"
run greeting-service greeting-service-build-02
printf '\nfunc greetings() int { return "many" }\n' >>"$work/greeting-service/main.go"
run greeting-service greeting-service-build-03
run link-shortener link-shortener-build-01

rm -rf "$to"
cp -r "$work/state/runs" "$to"
find "$to" \( -name lock -o -name report.html -o -name workflow.yaml \) -delete
# Revisions are in base64, and their address is of this machine, too.
find "$to" -type f | while read -r file; do
	sed -i -E "s#$work/state#/home/ada/.cache/stepwright#g; s#$work/stepwright-[^/\" ]*#/tmp/run#g" "$file"
	sed -i -E 's#http://127\.0\.0\.1:[0-9]+/([a-z-]+\.git)#https://git.example.com/acme/\1#g' "$file"
	sed -i -E 's#127\.0\.0\.1:[0-9]+/acme#registry.example.com/acme#g; s#127\.0\.0\.1:[0-9]+#mirror.example.com#g' "$file"
	grep -oE 'base64:[A-Za-z0-9+/=]+' "$file" | sort -u | while read -r old; do
		new=base64:$(echo "${old#base64:}" | base64 -d |
			sed -E 's#http://127\.0\.0\.1:[0-9]+/([a-z-]+\.git)#https://git.example.com/acme/\1#' | base64 -w0)
		sed -i "s#$old#$new#" "$file"
	done
done
