"""siglip.bulk without an engine for many machines: what Ray's map_batches and Spark's mapInPandas do with it."""

import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import siglip
from siglip import bulk

ROOT = pathlib.Path(__file__).resolve().parents[3]
DEMO = str(ROOT / "models/demo")
PICTURE = (ROOT / "data/demo/examples/seven.png").read_bytes()

# A pandas.DataFrame as far as the embedder needs one, and what an executor does with what it is sent.
EXECUTOR = """
import pickle, sys

class Frame(dict):
    def drop(self, columns):
        return Frame({name: values for name, values in self.items() if name != columns})

    def assign(self, **columns):
        return Frame({**self, **columns})

with open(sys.argv[1], "rb") as file:
    embed, columns = pickle.load(file)
frames = list(embed(Frame(column) for column in columns))
with open(sys.argv[1], "wb") as file:
    pickle.dump([dict(frame) for frame in frames], file)
"""


def test_the_embedder_for_spark_is_pickled_to_another_process(tmp_path):
    job = tmp_path / "job.pickle"
    columns = [{"path": ["a", "b"], "picture": [PICTURE, b"no image"]},
               {"path": ["c", "d", "e"], "picture": [None, PICTURE, float("nan")]}]
    embed = bulk.pandas_embedder(DEMO, "picture", threads=1, precision="fp32")
    job.write_bytes(pickle.dumps((embed, columns)))
    subprocess.run([sys.executable, "-c", EXECUTOR, job], check=True,
                   env={**os.environ, "PYTHONPATH": str(pathlib.Path(siglip.__file__).parents[1])})
    first, second = pickle.loads(job.read_bytes())
    want = siglip.Model(DEMO, precision="fp32").embed_images([PICTURE])[0]
    assert list(first) == ["path", "embedding", "error"] and second["path"] == ["c", "d", "e"]
    assert np.array_equal(first["embedding"][0], want) and first["error"][0] is None
    assert first["embedding"][1] is None and "8 bytes" in first["error"][1]
    assert np.array_equal(second["embedding"][1], want) and second["error"][1] is None
    for i, kind in ((0, "NoneType"), (2, "float")):
        assert second["embedding"][i] is None and kind in second["error"][i]


# What Spark's daemon does: its workers are forks of one process, which may have embedded something itself.
FORKS = EXECUTOR.split("with open")[0] + """
import os
import numpy as np
from siglip import bulk

embed = bulk.pandas_embedder(sys.argv[1], "picture", threads=1, precision="fp32")

def row():
    frame, = embed([Frame(picture=[sys.argv[2]])])
    return frame["embedding"][0]

want = row()
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(row(), want) else 1)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_worker_opens_a_model_of_its_own():
    subprocess.run([sys.executable, "-c", FORKS, DEMO, ROOT / "data/demo/examples/seven.png"], check=True, timeout=120,
                   env={**os.environ, "PYTHONPATH": str(pathlib.Path(siglip.__file__).parents[1])})


def test_a_null_in_a_batch_of_ray_is_an_error_of_its_row():
    embedder = bulk.ImageEmbedder(DEMO, precision="fp32")
    answer = embedder({"id": np.arange(3), "bytes": np.array([PICTURE, None, float("nan")], dtype=object)})
    assert list(answer) == ["id", "embedding", "error"] and answer["error"][0] == ""
    assert np.isnan(answer["embedding"][1:]).all() and not np.isnan(answer["embedding"][0]).any()
    assert "NoneType" in answer["error"][1] and "float" in answer["error"][2]


def test_columns_without_rows_are_of_objects():
    class Frame(dict):
        def drop(self, columns):
            return Frame({name: values for name, values in self.items() if name != columns})

        def assign(self, **columns):
            return Frame({**self, **columns})

    frame, = bulk.pandas_embedder(DEMO, "picture", threads=1)([Frame(picture=[])])
    assert frame["embedding"].dtype == object and frame["error"].dtype == object
