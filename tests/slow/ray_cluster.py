"""A Ray cluster of three node processes loses one in the middle of a job; the result is complete and equal.

    tests/slow/ray_cluster.py            the test
    tests/slow/ray_cluster.py measure    images per second with 1 and with 2 workers, for docs/bulk-at-scale.md
"""

import glob
import os
import pathlib
import sys
import tempfile
import threading
import time

import numpy as np
import pandas
import pyarrow.parquet as pq
import ray
import ray.data
import siglip
from ray.cluster_utils import Cluster
from siglip.bulk import ImageEmbedder, embed_dataset, pandas_embedder

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = str(ROOT / "models/demo")
PICTURES = sorted(map(str, (ROOT / "data/demo/valid").glob("*/*.JPEG")))
ROWS, BLOCKS = 800, 40


class SlowEmbedder(ImageEmbedder):
    """So slow that the job is in its middle when the node goes."""

    def __call__(self, batch):
        time.sleep(0.3)
        return super().__call__(batch)


def dataset(rows=ROWS, blocks=BLOCKS):
    """id, bytes; every 100th is no image."""
    items = [{"id": i, "bytes": pathlib.Path(PICTURES[i % len(PICTURES)]).read_bytes() if i % 100 else b"no image"}
             for i in range(rows)]
    return ray.data.from_items(items, override_num_blocks=blocks)


def read(folder):
    return pandas.concat([pq.read_table(file).to_pandas() for file in sorted(glob.glob(f"{folder}/*.parquet"))])


def check(table):
    assert sorted(table["id"]) == list(range(ROWS)), f"{len(table)} rows, {table['id'].nunique()} ids"
    want = siglip.Model(DEMO).embed_images(PICTURES)
    for row in table.itertuples():
        got = np.asarray(row.embedding, np.float32)
        if row.id % 100 == 0:
            assert np.isnan(got).all() and "8 bytes" in row.error
        else:
            assert row.error == "" and np.array_equal(got, want[row.id % len(PICTURES)]), row.id


def lose_a_node():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    with tempfile.TemporaryDirectory() as folder:
        errors = []

        def job():
            try:
                embedded = embed_dataset(dataset(), DEMO, workers=4, batch_size=ROWS // BLOCKS, embedder=SlowEmbedder)
                embedded.write_parquet(folder)
            except BaseException as error:  # pylint: disable=broad-exception-caught
                errors.append(error)

        thread = threading.Thread(target=job)
        thread.start()
        while thread.is_alive() and len(glob.glob(f"{folder}/*.parquet")) < BLOCKS // 8:
            time.sleep(0.05)
        written = len(glob.glob(f"{folder}/*.parquet"))
        assert thread.is_alive() and written < BLOCKS, f"the job was over too early: {written} files, {errors}"
        print(f"a node is killed when {written} of {BLOCKS} files are written", flush=True)
        cluster.remove_node(nodes[0], allow_graceful=False)
        thread.join()
        assert not errors, errors
        check(read(folder))
    ray.shutdown()
    cluster.shutdown()


def spark_shape():
    """What mapInPandas is given, without Spark: an iterator of frames."""
    frames = [pandas.DataFrame({"path": PICTURES[:2], "content": [pathlib.Path(p).read_bytes() for p in PICTURES[:2]]}),
              pandas.DataFrame({"path": ["x"], "content": [b"no image"]})]
    first, second = pandas_embedder(DEMO, threads=1)(iter(frames))
    assert list(first.columns) == ["path", "embedding", "error"] and first["error"].isna().all()
    assert np.array_equal(np.stack(first["embedding"]), siglip.Model(DEMO).embed_images(PICTURES[:2]))
    assert second["embedding"][0] is None and "8 bytes" in second["error"][0]


def measure():
    """Steady state: the workers are up and have the model before the clock starts."""
    ray.init(num_cpus=3, log_to_driver=False)
    model = os.environ.get("SIGLIP_MODEL", DEMO)
    rows = int(os.environ.get("SIGLIP_ROWS", "16000"))
    seconds = {}
    data = dataset(rows, 80).materialize()
    for workers in (1, 2, 1, 2):
        run = embed_dataset(data, model, workers=workers)
        batches, begin, count = run.iter_batches(batch_size=None), None, 0
        for batch in batches:
            if begin is None:
                begin = time.monotonic()
            else:
                count += len(batch["id"])
        rate = count / (time.monotonic() - begin)
        seconds.setdefault(workers, []).append(rate)
        print(f"{workers} worker(s): {rate:.0f} images/s", flush=True)
    one, two = max(seconds[1]), max(seconds[2])
    print(f"efficiency from 1 to 2 workers: {two / one / 2:.2f}")


if __name__ == "__main__":
    if sys.argv[1:] == ["measure"]:
        measure()
    else:
        spark_shape()
        lose_a_node()
        print("ray_cluster: passed")
