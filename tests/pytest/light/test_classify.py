"""`siglip classify` against numpy on the embeddings, in every output format."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from conftest import DEMO, ROOT, run_siglip

EXAMPLES = ROOT / "data/demo/examples"
LABELS = [line.split(" ", 1)[1] for line in (ROOT / "data/demo/LOC_synset_mapping.txt").read_text().splitlines()]
TEMPLATES = ["A photo of {text}.", "{label}"]
# cos is of order 1 and computed in double from float32 embeddings by both sides; what is printed is float32.
TOLERANCE = 1e-6


def embed(tmp_path, *arguments):
    out = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
    assert run_siglip("embed", "--model", DEMO, *arguments, "-o", out).returncode == 0
    rows = np.load(out).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def logit_parameters():
    weights = (DEMO / "model.safetensors").read_bytes()
    head_bytes = int.from_bytes(weights[:8], "little")
    head = json.loads(weights[8 : 8 + head_bytes])
    values = []
    for name in ("logit_scale", "logit_bias"):
        begin, end = head[name]["data_offsets"]
        assert head[name]["dtype"] == "F32"
        values.append(float(np.frombuffer(weights[8 + head_bytes :][begin:end], np.float32)[0]))
    return values


@pytest.fixture(name="expected", scope="module")
def expected_fixture(tmp_path_factory):
    """{image: {label: probability}} by numpy: templates normalised, averaged, normalised again."""
    folder = tmp_path_factory.mktemp("expected")
    images = embed(folder, EXAMPLES)
    mean = np.zeros((len(LABELS), images.shape[1]))
    for template in TEMPLATES:
        texts = folder / "texts"
        texts.write_text("".join(template.replace("{text}", l).replace("{label}", l) + "\n" for l in LABELS))
        mean += embed(folder, "--texts-from", texts)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    scale, bias = logit_parameters()
    probabilities = 1 / (1 + np.exp(-(images @ mean.T * np.exp(scale) + bias)))
    return {str(path): dict(zip(LABELS, row)) for path, row in zip(sorted(EXAMPLES.iterdir()), probabilities)}


def classify(*arguments, **options):
    templates = [item for template in TEMPLATES for item in ("--template", template)]
    labels = ["--labels-file", ROOT / "data/demo/LOC_synset_mapping.txt"]
    return run_siglip("classify", "--model", DEMO, *labels, *templates, *arguments, **options)


def assert_equal(answers, expected, top):
    assert answers.keys() == expected.keys()
    for image, pairs in answers.items():
        order = sorted(expected[image], key=lambda label: -expected[image][label])[:top]
        assert [label for label, _ in pairs] == order
        for label, probability in pairs:
            assert abs(probability - expected[image][label]) < TOLERANCE


def of_json(objects):
    return {o["image"]: [(entry["label"], entry["probability"]) for entry in o["labels"]] for o in objects}


def test_jsonl_is_the_default_of_a_pipe(expected):
    result = classify("--top", "3", EXAMPLES)
    assert result.returncode == 0, result.stderr
    assert_equal(of_json(map(json.loads, result.stdout.splitlines())), expected, 3)
    assert classify("--top", "3", "--format", "jsonl", EXAMPLES).stdout == result.stdout
    assert classify("--top", "3", "--json", EXAMPLES).stdout == result.stdout


def test_the_comparison_can_fail(expected):
    answers = of_json(map(json.loads, classify("--top", "3", EXAMPLES).stdout.splitlines()))
    image = next(iter(answers))
    label, probability = answers[image][0]
    answers[image][0] = (label, probability + 2 * TOLERANCE)
    with pytest.raises(AssertionError):
        assert_equal(answers, expected, 3)


def test_json_is_one_array(expected):
    result = classify("--top", "2", "--format", "json", EXAMPLES)
    assert_equal(of_json(json.loads(result.stdout)), expected, 2)


def test_csv_has_a_line_per_label(expected):
    result = classify("--top", "2", "--format", "csv", EXAMPLES)
    answers = {}
    for row in csv.DictReader(io.StringIO(result.stdout)):
        assert int(row["rank"]) == len(answers.setdefault(row["image"], [])) + 1
        answers[row["image"]].append((row["label"], float(row["probability"])))
    assert_equal(answers, expected, 2)


def test_a_table_shows_the_best(expected):
    result = classify("--top", "1", "--format", "table", EXAMPLES / "seven.png")
    assert result.stdout.startswith(f"{EXAMPLES / 'seven.png'}\n  seven ")
    assert "%" in result.stdout and len(result.stdout.splitlines()) == 2


def test_inputs_are_those_of_embed(expected, tmp_path):
    result = classify("--files-from", "-", input="".join(f"{path}\n" for path in expected))
    assert_equal(of_json(map(json.loads, result.stdout.splitlines())), expected, 5)
    assert len(classify(f"{EXAMPLES}/*.png").stdout.splitlines()) == 2


def test_a_bad_image_fails_alone_and_is_listed(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    result = classify("--failures", tmp_path / "failed", tmp_path / "bad.jpg", EXAMPLES)
    assert result.returncode == 3 and len(result.stdout.splitlines()) == 3
    assert [json.loads(line)["name"] for line in (tmp_path / "failed").read_text().splitlines()] == [
        str(tmp_path / "bad.jpg")
    ]
    assert classify(tmp_path / "bad.jpg").returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--labels", "a", "--labels-file", "b"],
        ["--labels", "a", "--template", "{text}", "--templates-from", "b"],
        ["--labels", "a", "--format", "xml"],
    ],
)
def test_wrong_flags_are_exit_code_2(arguments):
    assert run_siglip("classify", "--model", DEMO, EXAMPLES, *arguments).returncode == 2


def test_a_templates_file_is_its_lines_alone(tmp_path):
    naflex = ROOT / "tests/golden/naflex"  # its tokenizer drops neither a byte order mark nor a '\r'
    answers = []
    for name, content in (("lf", "a photo of {text}.\n{label}\n"), ("crlf", "\ufeffa photo of {text}.\r\n\r\n{label}\r\n")):
        (tmp_path / name).write_bytes(content.encode())
        result = run_siglip("classify", "--model", naflex, "--labels", "seven,three", "--templates-from", tmp_path / name,
                            EXAMPLES / "seven.png")
        assert result.returncode == 0, result.stderr
        answers.append(result.stdout)
    assert answers[0] == answers[1]
    named = run_siglip("classify", "--model", naflex, "--labels", "seven,three", "--template", "a photo of {text}.",
                       "--template", "{label}", EXAMPLES / "seven.png")
    assert answers[0] == named.stdout


@pytest.mark.parametrize("content", ["", "\n \r\n", "\ufeff\n"])
def test_a_templates_file_without_templates_is_refused(tmp_path, content):
    (tmp_path / "templates").write_text(content, encoding="utf-8")
    result = run_siglip("classify", "--model", DEMO, "--labels", "seven,three", "--templates-from", tmp_path / "templates",
                        EXAMPLES / "seven.png")
    assert result.returncode == 2 and f"{tmp_path / 'templates'}: expected templates" in result.stderr, result.stderr
    assert not result.stdout


@pytest.mark.parametrize("arguments", [["--labels", "a,a"], ["--labels", ","], ["--labels", "a", "--template", "no place"]])
def test_bad_labels_and_templates_are_named(arguments):
    result = run_siglip("classify", "--model", DEMO, EXAMPLES, *arguments)
    assert result.returncode == 2 and "expected" in result.stderr


@pytest.mark.parametrize("format", ["table", "jsonl", "csv"])
def test_probabilities_that_are_not_finite_fail_their_image(tmp_path, format):
    model = tmp_path / "model"
    shutil.copytree(DEMO, model)
    weights = bytearray((model / "model.safetensors").read_bytes())
    head_bytes = int.from_bytes(weights[:8], "little")
    begin = json.loads(weights[8 : 8 + head_bytes])["logit_bias"]["data_offsets"][0] + 8 + head_bytes
    weights[begin : begin + 4] = np.float32("nan").tobytes()
    (model / "model.safetensors").write_bytes(weights)
    done = run_siglip("classify", "--model", model, "--labels", "a,b", "--format", format, EXAMPLES / "seven.png")
    assert done.returncode == 1 and "seven.png" in done.stderr and "expected finite probabilities" in done.stderr


def test_a_list_of_failures_that_cannot_be_written_is_told_first():
    done = run_siglip("classify", "--model", "nope", "--labels", "a", "--failures", "/proc/nope", EXAMPLES)
    assert done.returncode == 1 and "/proc/nope" in done.stderr
