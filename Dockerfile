# syntax=docker/dockerfile:1

FROM python:3.13-slim AS build
# The compiler leaves no trace in the image: its newest version is the right one.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY llmcli llmcli
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
# Where pip looks as well: PyTorch's own builds without CUDA are a tenth as large.
ARG PIP_EXTRA_INDEX_URL
# Extra features of llmcli, such as serve,grammar.
ARG EXTRAS=serve,grammar
COPY constraints.txt /tmp/
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --constraint /tmp/constraints.txt \
        "llmcli[$EXTRAS] @ file://$(echo /wheels/llmcli-*.whl)" \
    && rm /tmp/constraints.txt
RUN useradd --uid 1000 --create-home llmcli \
    && install --directory --owner=1000 --group=1000 /home/llmcli/.cache/huggingface /work
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["llmcli"]
CMD ["--help"]
