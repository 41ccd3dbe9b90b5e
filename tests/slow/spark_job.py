"""Spark runs siglip.bulk.pandas_embedder over pictures of which one is bad and one is null, loses a worker process in the
middle, and the result is complete and equal."""

import os
import pathlib
import signal
import tempfile

import numpy as np
import siglip
from pyspark.sql import SparkSession
from siglip.bulk import pandas_embedder

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = str(ROOT / "models/demo")
PARTITIONS = 5


def killed_once(embed, marker):
    """The worker that is first to be done with a frame is killed before it can hand it over."""
    def run(frames):
        for rows in embed(frames):
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                yield rows
            else:
                os.kill(os.getpid(), signal.SIGKILL)
    return run


def main():
    spark = (SparkSession.builder.master("local[2,2]")  # a task may fail once
             .config("spark.ui.enabled", "false").config("spark.sql.execution.arrow.maxRecordsPerBatch", 64).getOrCreate())
    spark.sparkContext.setLogLevel("OFF")
    pictures = (spark.read.format("binaryFile").option("recursiveFileLookup", "true")
                .load(str(ROOT / "data/demo/valid")).select("path", "content"))
    others = spark.createDataFrame([("bad", b"no image"), ("null", None)], "path string, content binary")
    with tempfile.TemporaryDirectory() as folder:
        marker = f"{folder}/killed"
        embed = killed_once(pandas_embedder(DEMO, threads=1, cache_dir=f"{folder}/cache"), marker)
        rows = pictures.union(others).repartition(PARTITIONS).mapInPandas(
            embed, "path string, embedding array<float>, error string")
        rows.write.parquet(f"{folder}/out")
        table = spark.read.parquet(f"{folder}/out").collect()
        assert os.path.exists(marker), "no worker was killed"
    spark.stop()
    found = {row.path.removeprefix("file:"): row for row in table}
    paths = sorted(map(str, (ROOT / "data/demo/valid").glob("*/*")))
    assert len(found) == len(table) and sorted(found) == sorted([*paths, "bad", "null"]), f"{len(table)} rows"
    for name, words in (("bad", "8 bytes"), ("null", "NoneType")):
        assert found[name].embedding is None and words in found[name].error
    for path, want in zip(paths, siglip.Model(DEMO).embed_images(paths), strict=True):
        assert found[path].error is None and np.array_equal(np.array(found[path].embedding, np.float32), want), path
    print("spark_job: passed")


if __name__ == "__main__":
    main()
