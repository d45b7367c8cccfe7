#!/usr/bin/env bash
# Write the digest that the registry has now behind every tag in compose.yaml, .env.example and the Dockerfiles.
# `--check` changes nothing, lists what differs and then exits with 1. Needs skopeo and the network.
set -euo pipefail
cd "$(dirname "$0")/.."
files=(compose.yaml .env.example docker/*.Dockerfile)
differs=0
while read -r pinned; do
    tag=${pinned%@*}
    digest=$(skopeo inspect --no-tags --format '{{.Digest}}' "docker://$tag")
    [[ $pinned == "$tag@$digest" ]] && continue
    echo "$tag: $digest instead of ${pinned#*@}"
    differs=1
    [[ ${1:-} == --check ]] || sed --in-place "s|$pinned|$tag@$digest|" "${files[@]}"
done < <(grep --no-filename --only-matching --extended-regexp '[a-z0-9][a-z0-9./_-]*:[A-Za-z0-9._-]+@sha256:[0-9a-f]{64}' "${files[@]}" | sort --unique)
[[ ${1:-} != --check ]] || exit "$differs"
