"""Columns of images -> columns of embeddings, in the workers of an engine for many machines (docs/bulk-at-scale.md).

Each worker process opens the checkpoint once. A row whose image is bad, or null, gets an `error` and no embedding (NaN
in Ray's arrays, null in Spark's tables); the job goes on.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from . import Model, _files

if TYPE_CHECKING:
    import pandas


class ImageEmbedder:
    """For ray.data.Dataset.map_batches with batch_format="numpy": drops `column`, adds `embedding` and `error`."""

    def __init__(self, directory: str, column: str = "bytes", **options: Any) -> None:
        """column: bytes of image files, or their paths. options: those of siglip.Model."""
        self.model = Model(directory, **options)
        self.column = column

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        failures: dict[int, str] = {}
        images = list(batch[self.column])
        rows = self.model.embed_images(images, failures)
        kept = {name: values for name, values in batch.items() if name != self.column}
        errors = np.array([failures.get(i, "") for i in range(len(images))], dtype=object)
        return {**kept, "embedding": rows, "error": errors}


# Spark starts a process for each core, which then gets one partition after the other.
@functools.lru_cache(maxsize=1)
def _open(directory: str, files: tuple[tuple[Any, ...], ...], options: tuple[tuple[str, Any], ...]) -> Model:
    del files
    return Model(directory, **dict(options))


def _objects(values: list[Any]) -> np.ndarray:
    """A column of any values: pandas would make one of floats of none."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


# A child opens its own: its parent's has its threads there.
os.register_at_fork(after_in_child=_open.cache_clear)


def _embed_frames(frames: Iterator[pandas.DataFrame], *, directory: str, column: str,
                  options: tuple[tuple[str, Any], ...]) -> Iterator[pandas.DataFrame]:
    directory = os.path.realpath(directory)
    model = _open(directory, _files(directory), options)
    for frame in frames:
        failures: dict[int, str] = {}
        rows = model.embed_images(list(frame[column]), failures)
        good = [None if i in failures else row for i, row in enumerate(rows)]
        yield frame.drop(columns=column).assign(
            embedding=_objects(good), error=_objects([failures.get(i) for i in range(len(rows))]))


def pandas_embedder(directory: str, column: str = "content",
                    **options: Any) -> Callable[[Iterator[pandas.DataFrame]], Iterator[pandas.DataFrame]]:
    """For pyspark's DataFrame.mapInPandas: drops `column`, adds `embedding` (array<float>) and `error` (string).

    options: those of siglip.Model. What is returned can be pickled, and opens no checkpoint until it is called.
    """
    return functools.partial(_embed_frames, directory=directory, column=column, options=tuple(sorted(options.items())))


def embed_dataset(dataset: Any, directory: str, workers: int, cpus_per_worker: int = 1, batch_size: int = 64,
                  embedder: type[ImageEmbedder] = ImageEmbedder, **options: Any) -> Any:
    """A ray.data.Dataset with a column of images -> one with `embedding` and `error`; nothing runs until it is used.

    workers: processes over the whole cluster; fewer go on with the work while nodes are missing.
    """
    import ray.data  # pylint: disable=import-outside-toplevel

    return dataset.map_batches(
        embedder, fn_constructor_kwargs={"directory": directory, "threads": cpus_per_worker, **options},
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers), num_cpus=cpus_per_worker,
        batch_size=batch_size, batch_format="numpy")
