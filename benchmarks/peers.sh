#!/bin/sh
# Make the environment that benchmarks/compare.py measures against: CTranslate2 from its wheel,
# llama.cpp built from the source distribution of llama-cpp-python.
#
#     benchmarks/peers.sh FOLDER        (about 20 minutes on one core)
#
# GGML_NATIVE is off and the instruction sets are named, because virtual machines may advertise
# AMX and stop the program that uses it. Adapt the list to the processor.
set -eu
folder=${1:?"Usage: $0 FOLDER"}
jobs=${JOBS:-1}
python=${PYTHON:-python3}
project=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

mkdir -p "$folder"
"$python" -m venv "$folder/venv"
# torch and transformers, which the converters want, are the project's own.
echo "$project" > "$("$folder/venv/bin/python" -c \
    'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
"$folder/venv/bin/pip" install --quiet ctranslate2 gguf
"$folder/venv/bin/pip" download --quiet --no-deps --no-binary llama-cpp-python \
    --dest "$folder" llama-cpp-python
tar -xzf "$folder"/llama_cpp_python-*.tar.gz -C "$folder"
source=$(echo "$folder"/llama_cpp_python-*/vendor/llama.cpp)
cmake -S "$source" -B "$folder/build" -DCMAKE_BUILD_TYPE=Release \
    -DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_BMI2=ON \
    -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON \
    -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON \
    -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF
cmake --build "$folder/build" -j"$jobs" --target llama-bench llama-quantize
ln -sfn "$source" "$folder/llama.cpp"
