#!/bin/sh
# Make the environment that benchmarks/compare.py measures against: CTranslate2 from its wheel,
# llama.cpp built from the source distribution of llama-cpp-python.
#
#     benchmarks/peers.sh FOLDER        (about 20 minutes on one core)
#
# GGML_NATIVE is off and the instruction sets are named, those that the processor has, because
# virtual machines may advertise AMX and stop the program that uses it.
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
sets=
has() { grep -qw "$1" /proc/cpuinfo && sets="$sets -DGGML_$2=ON"; }
has sse4_2 SSE42 || true
has avx AVX || true
has avx2 AVX2 || true
has bmi2 BMI2 || true
has fma FMA || true
has f16c F16C || true
has avx_vnni AVX_VNNI || true
has avx512f AVX512 || true
has avx512vbmi AVX512_VBMI || true
has avx512_vnni AVX512_VNNI || true
has avx512_bf16 AVX512_BF16 || true
# shellcheck disable=SC2086  # a list of options
cmake -S "$source" -B "$folder/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF $sets \
    -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=ON \
    -DLLAMA_BUILD_EXAMPLES=OFF
cmake --build "$folder/build" -j"$jobs" \
    --target llama-bench llama-quantize llama-completion llama-server
ln -sfn "$source" "$folder/llama.cpp"
