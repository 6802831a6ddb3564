#!/bin/sh
# Lays a bundle into a model repository of NVIDIA's Triton Inference Server: repository.sh BUNDLE REPOSITORY
#   REPOSITORY/NAME/config.pbtxt, REPOSITORY/NAME/N/model.onnx     N is the number that the version begins with
# Verify the bundle first (`assay verify-bundle`): Triton does not. The version's folder appears whole, by a rename.
set -eu
bundle=$(cd "$1" && pwd)
name=$(basename "$(dirname "$bundle")")
number=$(basename "$bundle")
number=${number%%-*}
folder=$2/$name
partial=$folder/.partial-$number
mkdir -p "$partial"
cp "$bundle/model.onnx" "$partial/model.onnx"
cp "$bundle/config.pbtxt" "$folder/.config.pbtxt"
mv "$folder/.config.pbtxt" "$folder/config.pbtxt"
mv -T "$partial" "$folder/$number"
