# What `tuner` runs in: docker-compose.yml starts it as dashboard and workers.

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# two environments: what builds the wheel stays in this stage
RUN python -m venv /opt/build && python -m venv /opt/tuner
COPY deploy/build.lock deploy/run.lock /locks/
RUN /opt/build/bin/pip install --quiet --no-deps --only-binary :all: --require-hashes -r /locks/build.lock
RUN /opt/tuner/bin/pip install --quiet --no-deps --only-binary :all: --require-hashes -r /locks/run.lock
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY tuner tuner
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/tuner/bin/pip install --quiet --no-deps --no-index /wheels/*.whl \
 && /opt/tuner/bin/pip uninstall --quiet --yes pip

FROM python:3.11-slim
# a named volume takes the owner of the folder that it is mounted on
RUN useradd --uid 1000 --create-home tuner && install -d -o tuner -g tuner /srv/tuner /cache /artifacts
COPY --from=build /opt/tuner /opt/tuner
# tuner/dashboard/settings.py looks for it
RUN touch /opt/tuner/is-image
ENV PATH=/opt/tuner/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    TUNER_CACHE=/cache/tuner TUNER_ARTIFACTS=/artifacts KERAS_HOME=/cache/keras
USER 1000:1000
WORKDIR /srv/tuner
ENTRYPOINT ["tuner"]
CMD ["--help"]
