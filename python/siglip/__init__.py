"""SigLIP image and text embeddings, equal to Hugging Face transformers and Pillow.

    import siglip
    model = siglip.Model("models/demo")
    rows = model.embed_images(["a.jpg", open("b.png", "rb").read(), pil_image, rgb_array])   # [4, D]
    texts = model.embed_texts(["a photo of a cat"])                                          # [1, D]
    probabilities = model.classify(["a.jpg"], ["cat", "dog"])                                # [1, 2]
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, Union

import numpy as np

from . import _siglip

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL.Image import Image as PilImage

    ImageLike = Union[bytes, bytearray, memoryview, str, os.PathLike[str], npt.NDArray[np.uint8], PilImage]

T = TypeVar("T")

__all__ = ["Model", "set_log_level"]
__version__ = _siglip.version()


def _word(name: str, value: str) -> bytes:
    """An option that is a string, for the extension."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a str, got {type(value).__name__}")
    return value.encode("utf-8", "surrogatepass")


def _number(name: str, value: int, bits: int) -> int:
    """An option that is a number, of a signed type of so many bits in C."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}") from None
    if not 0 <= number < 2 ** (bits - 1):
        raise ValueError(f"{name}: expected 0 to {2 ** (bits - 1) - 1}, got {number}")
    return number


def _float32(name: str, array: npt.ArrayLike) -> npt.NDArray[np.float32]:
    floats = np.asarray(array)
    if floats.dtype.kind != "f":
        raise TypeError(f"{name}: expected floats, got {floats.dtype}")
    return np.ascontiguousarray(floats, np.float32)


def _int64(name: str, array: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {array.dtype}")
    return np.ascontiguousarray(array, np.int64)


def set_log_level(level: str) -> None:
    """What is written to stderr: "debug", "info", "warn" (at first), "error" or "off"."""
    _siglip.set_log_level(_word("level", level))


def _image(item: Any) -> tuple[int, Any, int, int]:
    """(kind, buffer, width, height) of whatever an image may be given as."""
    if isinstance(item, memoryview) and not item.c_contiguous:
        return _siglip.FILE, item.tobytes(), 0, 0
    if isinstance(item, (bytes, bytearray, memoryview)):
        return _siglip.FILE, item, 0, 0
    if isinstance(item, (str, os.PathLike)):
        return _siglip.PATH, os.fsencode(item), 0, 0
    if hasattr(item, "convert") and hasattr(item, "tobytes"):  # a PIL image
        rgb = item.convert("RGB")
        return _siglip.RGB, rgb.tobytes(), rgb.width, rgb.height
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3:
            raise TypeError(f"image array: expected uint8 [height, width, 3], got {item.dtype} {list(item.shape)}")
        return _siglip.RGB, np.ascontiguousarray(item), item.shape[1], item.shape[0]
    raise TypeError(f"image: expected bytes of a file, a path, a PIL image or an array, got {type(item).__name__}")


def _text(item: Any) -> bytes:
    if not isinstance(item, str):
        raise TypeError(f"text: expected a str, got {type(item).__name__}")
    # A lone surrogate, which is no text, is refused as its bytes are.
    return item.encode("utf-8", "surrogatepass")


def _converted(items: Iterable[Any], convert: Callable[[Any], T], failures: dict[int, str] | None) -> list[T | str]:
    """If there are `failures`, an item that cannot be converted becomes a str that says why."""
    converted: list[T | str] = []
    for index, item in enumerate(items):
        try:
            converted.append(convert(item))
        except Exception as error:  # pylint: disable=broad-exception-caught  # PIL's plugins raise what they like
            if failures is not None:
                converted.append(str(error) or type(error).__name__)
            elif isinstance(error, (TypeError, ValueError)):
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"item {index}: {error}") from error
            else:
                raise
    return converted


def _images(items: Iterable[ImageLike], failures: dict[int, str] | None) -> list[tuple[int, Any, int, int] | str]:
    if isinstance(items, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(items, "convert"):
        raise TypeError("images: expected a list, got one image")
    return _converted(items, _image, failures)


def _texts(items: Iterable[str], failures: dict[int, str] | None = None) -> list[bytes | str]:
    if isinstance(items, (str, bytes)):
        raise TypeError("texts: expected a list, got one text")
    return _converted(items, _text, failures)


def _files(directory: str) -> tuple[tuple[Any, ...], ...]:
    """What tells whether a folder still holds the files that it held."""
    try:
        with os.scandir(directory) as entries:
            stats = [(entry.name, entry.stat()) for entry in entries]
    except OSError:  # siglip.Model says it better
        return ()
    return tuple(sorted((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


def _reopened(directory: str, options: dict[str, Any]) -> Model:
    return Model(directory, **options)


class Model:
    """A loaded checkpoint. Thread-safe; the GIL is released while it works.

    A forked child cannot use its parent's model (RuntimeError): open it after the fork. A pickled one is opened again
    where it is unpickled.

    Lists may have any length, and be any iterable. A bad item raises, naming its place in the list; or, if `failures`
    is a dict, it is told there as {index: message}, its row is NaN (ids: 0), and the others are not disturbed. Ctrl-C
    ends a long call within seconds.
    """

    def __init__(self, directory: str | bytes | os.PathLike[str], *, threads: int = 0, precision: str = "auto",
                 device: str = "auto", isa: str = "auto", pillow: int = 13, max_pixels: int = 0,
                 cache_dir: str | os.PathLike[str] = "", max_patches: int = 0) -> None:
        """Opens a Hugging Face snapshot folder.

        threads: of the engine and of preprocessing; 0 = one per core.
        precision: of a CPU "fp32", "int16", "int8" or "bf16", of a GPU "bf16", "fp16" or "fp8"; "auto" is bf16 on a GPU, and on a CPU
            int16 where it is faster and a check at load finds it near enough to fp32.
        device: "cpu", "cuda" (the first GPU) or "cuda:0,1"; "auto" is the first GPU where there is one, the GPU engine is
            installed and the precision is not a CPU's, and else the CPU.
        isa: instruction set of a CPU, "avx2" say; "auto" is the best one.
        pillow: whose resize is reproduced, 13 or 12.
        max_pixels: width * height above which an image is refused; 0 = Pillow's limit.
        cache_dir: keeps packed weights, which later starts and other processes map; "" = none.
        max_patches: of an image, for a NaFlex checkpoint; 0 = what the checkpoint says, usually 256.
        """
        self._model = _siglip.Model(
            os.fsencode(directory), _number("threads", threads, 32), _word("precision", precision),
            _word("device", device), _word("isa", isa), _number("pillow", pillow, 32),
            _number("max_pixels", max_pixels, 64), os.fsencode(cache_dir), _number("max_patches", max_patches, 64))
        self.directory = os.fsdecode(directory)
        self._options = {"threads": threads, "precision": precision, "device": device, "isa": isa, "pillow": pillow,
                         "max_pixels": max_pixels, "cache_dir": cache_dir, "max_patches": max_patches}

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.directory, self._options)

    @property
    def image_size(self) -> int:
        """S: pixels are [3, S, S]. 0: a NaFlex checkpoint."""
        return self._model.image_size

    @property
    def patch_size(self) -> int:
        """p."""
        return self._model.patch_size

    @property
    def max_patches(self) -> int:
        """N of a NaFlex checkpoint: pixels are [N, p * p * 3] and a spatial shape. 0: of fixed resolution."""
        return self._model.max_patches

    @property
    def embedding_size(self) -> int:
        """D: embeddings are [D]."""
        return self._model.embedding_size

    @property
    def text_length(self) -> int:
        """T: ids per text."""
        return self._model.text_length

    @property
    def vocab_size(self) -> int:
        return self._model.vocab_size

    @property
    def logit_scale(self) -> float:
        """As stored: the logit is cos * exp(logit_scale) + logit_bias."""
        return self._model.logit_scale

    @property
    def logit_bias(self) -> float:
        return self._model.logit_bias

    @property
    def engine(self) -> str:
        """Device, instruction set, precision, threads."""
        return self._model.engine

    def __repr__(self) -> str:
        size = f"{self.image_size} px" if self.image_size else f"NaFlex, {self.max_patches} patches"
        return f"siglip.Model({self.directory!r}: {size}, D = {self.embedding_size}, {self.engine})"

    def _need_fixed_resolution(self, instead: str) -> None:
        if self.max_patches:
            raise RuntimeError(f"pixels: expected a checkpoint of fixed resolution, got NaFlex: call {instead}")

    def _need_naflex(self, instead: str) -> None:
        if not self.max_patches:
            raise RuntimeError(f"patches: expected a NaFlex checkpoint, got one of fixed resolution: call {instead}")

    def embed_images(self, images: Iterable[ImageLike],
                     failures: dict[int, str] | None = None) -> npt.NDArray[np.float32]:
        """Bytes of files, paths, RGB arrays and PIL images -> [N, D], not normalised."""
        items = _images(images, failures)
        rows = np.empty((len(items), self.embedding_size), np.float32)
        self._model.embed_images(items, rows, failures)
        return rows

    def embed_texts(self, texts: Iterable[str], failures: dict[int, str] | None = None) -> npt.NDArray[np.float32]:
        """[N, D], not normalised."""
        items = _texts(texts, failures)
        rows = np.empty((len(items), self.embedding_size), np.float32)
        self._model.embed_texts(items, rows, failures)
        return rows

    def preprocess(self, images: Iterable[ImageLike],
                   failures: dict[int, str] | None = None) -> npt.NDArray[np.float32]:
        """The pixels that the vision tower takes, [N, 3, S, S]. NaFlex has preprocess_patches instead (RuntimeError)."""
        self._need_fixed_resolution("preprocess_patches")
        items = _images(images, failures)
        pixels = np.empty((len(items), 3, self.image_size, self.image_size), np.float32)
        self._model.preprocess(items, pixels, failures)
        return pixels

    def preprocess_patches(self, images: Iterable[ImageLike], failures: dict[int, str] | None = None
                           ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Of a NaFlex checkpoint: `pixel_values` [N, max_patches, p * p * 3], zeros after an image's last patch, and
        `spatial_shapes` [N, 2], its rows and columns of patches, as transformers' Siglip2ImageProcessor gives them.
        """
        self._need_naflex("preprocess")
        items = _images(images, failures)
        pixels = np.empty((len(items), self.max_patches, 3 * self.patch_size ** 2), np.float32)
        shapes = np.empty((len(items), 2), np.int64)
        self._model.preprocess_patches(items, pixels, shapes, failures)
        return pixels, shapes

    def tokenize(self, texts: Iterable[str], failures: dict[int, str] | None = None) -> npt.NDArray[np.int64]:
        """The ids that the text tower takes, padded, [N, T]."""
        items = _texts(texts, failures)
        ids = np.empty((len(items), self.text_length), np.int64)
        self._model.tokenize(items, ids, failures)
        return ids

    def encode_pixels(self, pixels: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """[N, 3, S, S] -> [N, D]."""
        self._need_fixed_resolution("encode_patches")
        side = self.image_size
        array = _float32("pixels", pixels)
        if array.ndim != 4 or array.shape[1:] != (3, side, side):
            raise ValueError(f"pixels: expected [N, 3, {side}, {side}], got {list(array.shape)}")
        rows = np.empty((len(array), self.embedding_size), np.float32)
        self._model.encode_pixels(array, len(array), rows)
        return rows

    def encode_patches(self, pixels: npt.ArrayLike, spatial_shapes: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """[N, max_patches, p * p * 3] and [N, 2] -> [N, D]. Patches past an image's own are not looked at."""
        self._need_naflex("encode_pixels")
        array = _float32("pixels", pixels)
        shapes = np.asarray(spatial_shapes)
        wanted = (self.max_patches, 3 * self.patch_size ** 2)
        if array.ndim != 3 or array.shape[1:] != wanted:
            raise ValueError(f"pixels: expected [N, {wanted[0]}, {wanted[1]}], got {list(array.shape)}")
        if shapes.shape != (len(array), 2):
            raise ValueError(f"spatial_shapes: expected [{len(array)}, 2], got {list(shapes.shape)}")
        rows = np.empty((len(array), self.embedding_size), np.float32)
        self._model.encode_patches(array, _int64("spatial_shapes", shapes), len(array), rows)
        return rows

    def encode_tokens(self, ids: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """[N, T] -> [N, D]."""
        array = np.asarray(ids)
        if array.ndim != 2 or array.shape[1] != self.text_length:
            raise ValueError(f"ids: expected [N, {self.text_length}], got {list(array.shape)}")
        rows = np.empty((len(array), self.embedding_size), np.float32)
        self._model.encode_tokens(_int64("ids", array), len(array), rows)
        return rows

    def classifier(self, labels: Iterable[str],
                   templates: str | Iterable[str] = "A photo of {text}.") -> Classifier:
        """Embeds the labels once, for many calls."""
        return Classifier(self, labels, templates)

    def classify(self, images: Iterable[ImageLike], labels: Iterable[str],
                 templates: str | Iterable[str] = "A photo of {text}.",
                 failures: dict[int, str] | None = None) -> npt.NDArray[np.float64]:
        """SigLIP's own probability of each label for each image, [N, labels]. Rows need not sum to 1."""
        return self.classifier(labels, templates).classify(images, failures)


class Classifier:
    """Labels whose text embeddings are kept. Made by Model.classifier. Thread-safe."""

    def __init__(self, model: Model, labels: Iterable[str], templates: str | Iterable[str]) -> None:
        if isinstance(labels, str):
            raise TypeError("labels: expected a list, got one label")
        self.labels = list(labels)
        self._model = model
        self._classifier = model._model.classifier(
            _texts(self.labels), _texts([templates] if isinstance(templates, str) else templates))

    def probabilities(self, rows: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Of image embeddings [N, D] -> [N, labels]."""
        array = _float32("rows", rows)
        if array.ndim != 2 or array.shape[1] != self._model.embedding_size:
            raise ValueError(f"rows: expected [N, {self._model.embedding_size}], got {list(array.shape)}")
        answer = np.empty((len(array), len(self.labels)), np.float64)
        self._classifier.classify(array, len(array), answer)
        return answer

    def classify(self, images: Iterable[ImageLike],
                 failures: dict[int, str] | None = None) -> npt.NDArray[np.float64]:
        return self.probabilities(self._model.embed_images(images, failures))
