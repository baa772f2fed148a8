# The page in a container, non-root, on a GPU where there is one:
#
#     docker build -t promptscope .
#     docker run --rm --gpus all -p 7860:7860 --tmpfs /tmp -v promptscope-models:/models \
#         -v promptscope-workspace:/workspace promptscope
#
# CUDA comes with torch's wheels; the host needs NVIDIA's driver and container toolkit. Without `--gpus all`: CPU.
# /tmp holds uploads until they expire (a tmpfs keeps them off the disk); /models is the cache of downloaded
# backbones, /workspace what people label and teach.
FROM debian:bookworm-slim

ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# Debian's security updates should arrive with a rebuild, so versions are not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 promptscope \
    && install -d -o 1000 -g 1000 /models /workspace

# Requirements come before the code: a change of the code installs nothing again. The tests' packages stay out.
WORKDIR /promptscope
COPY requirements.txt constraints.txt ./
RUN sed '/^# Tests and checks/,$d' requirements.txt > /tmp/runtime.txt \
    && python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir -c constraints.txt -r /tmp/runtime.txt \
    && rm /tmp/runtime.txt

# --chmod: weights are saved as 0600, and a checkout's umask may hide more; the page's user must read all of it.
COPY --chmod=755 LICENSE space.py ./
COPY --chmod=755 assets assets
COPY --chmod=755 learned_prompts learned_prompts
COPY --chmod=755 engine engine
COPY --chmod=755 app app

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PROMPTSCOPE_HOST=0.0.0.0 \
    PROMPTSCOPE_PORT=7860 \
    GRADIO_ANALYTICS_ENABLED=False \
    GRADIO_TEMP_DIR=/tmp/promptscope \
    HF_HOME=/models \
    PROMPTSCOPE_WORKSPACE=/workspace \
    HF_HUB_DISABLE_TELEMETRY=1

USER 1000
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', os.environ['PROMPTSCOPE_PORT'], timeout=5); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "app"]
