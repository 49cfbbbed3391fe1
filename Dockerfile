# syntax=docker/dockerfile:1

# uWSGI is compiled in this stage; the final image contains no compiler.
FROM python:3.12-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev make \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
WORKDIR /build
# Before the code, so that a change of the code does not compile uWSGI again.
COPY requirements.txt requirements-build.txt ./
RUN /opt/venv/bin/pip install --no-cache-dir --require-hashes --requirement requirements-build.txt \
    && /opt/venv/bin/pip install --no-cache-dir --no-build-isolation --require-hashes --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN /opt/venv/bin/pip install --no-cache-dir --no-build-isolation --no-deps .

FROM python:3.12-slim
# A fixed number, so that the volume's files keep their owner from image to image.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin spoolkit \
    && install --directory --owner spoolkit --group spoolkit --mode 0700 /var/spool/spoolkit
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv/app
COPY app.py tasks.py spool_args.py uwsgi.ini ./
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=5000 \
    SPOOLKIT_SPOOL=/var/spool/spoolkit \
    SPOOLKIT_GRACE=30
USER spoolkit
VOLUME /var/spool/spoolkit
EXPOSE 5000
# The application answers, and its jobs run. While a queue is paused, for example, the container is "unhealthy".
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=2); c.request('GET', '/health/ready'); raise SystemExit(c.getresponse().status != 200)"]
# On the SIGTERM that Docker sends, uWSGI waits for jobs and requests, SPOOLKIT_GRACE seconds at most. Give it more time
# than that before it is killed: with stop_grace_period in a compose file, or docker stop --time 45.
STOPSIGNAL SIGTERM
CMD ["uwsgi", "--ini", "uwsgi.ini"]
