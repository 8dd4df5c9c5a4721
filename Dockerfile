# The page in a container. Docs: docs/notes/machines.md
#
#   docker build -t rarebit .                                    with NVIDIA cards (and without)
#   docker build -t rarebit --build-arg \
#       TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu .   for processors alone, far smaller
#
#   docker run --gpus all -p 127.0.0.1:7860:7860 -e RAREBIT_AUTH=me:secret \
#       -v rarebit-runs:/rarebit/runs -v rarebit-sets:/rarebit/datasets \
#       -v rarebit-models:/rarebit/models/user -v rarebit-hub:/home/rarebit/.cache rarebit

FROM python:3.12-slim

ARG TORCH_INDEX_URL=""
ENV PYTHONUNBUFFERED=1

RUN useradd --create-home rarebit && mkdir -p /rarebit && chown rarebit /rarebit
USER rarebit
WORKDIR /rarebit

# Apart from the source, so that a change of it does not install everything anew.
COPY --chown=rarebit launch.py requirements.txt ./
RUN PIP_NO_CACHE_DIR=1 python -c "import launch; launch.prepare()"

COPY --chown=rarebit . .
RUN mkdir -p runs datasets models/user /home/rarebit/.cache

VOLUME ["/rarebit/runs", "/rarebit/datasets", "/rarebit/models/user", "/home/rarebit/.cache"]
EXPOSE 7860

ENTRYPOINT ["python", "launch.py"]
CMD ["ui", "--host", "0.0.0.0", "--no-browser"]
