#!/usr/bin/env bash
# The client's part of an installation's test: submits a small job, follows it, judges it, fetches and verifies it.
#
#   export SECATEUR_ENDPOINT=https://localhost:50051 SECATEUR_CA_FILE=ca.crt SECATEUR_TOKEN=…
#   deploy/smoke.sh
#
# It needs `secateur` on PATH, and the model and the text that `secateur-service demo --inputs-only` makes where the
# service can read them. SMOKE_INPUTS names that place as the service sees it.
set -euo pipefail

inputs=${SMOKE_INPUTS:-file:///models/smoke/inputs}
max_growth=${SMOKE_MAX_GROWTH:-1.5}
unauthenticated=9

step() { printf '\n== %s\n' "$*"; }

step "Settings of this client"
secateur config

step "The service answers"
secateur info

step "It refuses a caller whom it does not know"
refused=0
secateur --token sct_nobody info > /dev/null 2>&1 || refused=$?
case $refused in
  "$unauthenticated") echo "yes" ;;
  0) echo "NO: it asks nobody for a token" ;;
  *) echo "it ended with exit code $refused instead of $unauthenticated" >&2; exit 1 ;;
esac

step "What the job needs"
specification=(
  --model "$inputs/garden-llama"
  --corpus "$inputs/corpora/calibration" --evaluation-corpus "$inputs/corpora/evaluation"
  --language de=0.6 --language uk=0.4 --method wanda --sparsity 0.3
  --samples 16 --sequence-length 128 --tokens-per-language 2048
)
secateur submit "${specification[@]}" --dry-run

step "Submit, and follow to the end"
job=$(secateur submit "${specification[@]}" --label purpose=smoke)
echo "$job"
secateur watch "$job"

step "No language lost more than a factor of $max_growth"
secateur gate "$job" --max-growth "$max_growth"

step "Download; every file is verified against the manifest"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
secateur download "$job" "$folder"
secateur gate "$folder" --max-growth "$max_growth" > /dev/null

printf '\nThe smoke job %s succeeded.\n' "$job"
