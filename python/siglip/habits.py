"""For code written for open_clip or sentence-transformers: the same calls, answered in numpy.

    from siglip.habits import create_model_and_transforms, get_tokenizer          # open_clip
    model, _, preprocess = create_model_and_transforms("models/demo")
    rows = model.encode_image(np.stack([preprocess(image)]), normalize=True)
    texts = model.encode_text(get_tokenizer("models/demo")(["a cat"]), normalize=True)

    from siglip.habits import SentenceTransformer                                 # sentence-transformers
    rows = SentenceTransformer("models/demo").encode(["a cat", pil_image])

Other than there, the name of a model is the folder of a checkpoint, and arrays are numpy's; torch.from_numpy makes
tensors of them without a copy, and encode_image, encode_text and similarity take tensors. Arguments of theirs that cannot change a result
here are taken and not looked at; those that ask for another result are a ValueError.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import Model, _converted, _files

if TYPE_CHECKING:
    import numpy.typing as npt


def _refuse(why: str, **arguments: tuple[Any, Any]) -> None:
    """name=(got, the one value that is taken)."""
    for name, (got, taken) in arguments.items():
        if got is not None if taken is None else got != taken:
            raise ValueError(f"{name}: expected {taken!r}, got {got!r}; {why}")


def normalized(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows scaled to length 1; zeros stay zeros."""
    rows = np.asarray(rows)
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float32)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)


_opened: weakref.WeakValueDictionary[Any, Model] = weakref.WeakValueDictionary()


@functools.lru_cache(maxsize=1)
def _open_once(directory: str, files: Any, precision: str, device: str) -> Model:
    model = _opened[directory, files] = Model(directory, precision=precision, device=device)
    return model


def _open(directory: str, precision: str, device: str) -> Model:
    """One model for the three parts of open_clip's habit, until the folder holds other files."""
    directory = os.path.realpath(directory)
    return _open_once(directory, _files(directory), precision, device)


# A child opens its own: its parent's have their threads there.
os.register_at_fork(after_in_child=_open_once.cache_clear)
os.register_at_fork(after_in_child=_opened.clear)


class _Part:
    """Transform or tokenizer: can be pickled and used in a forked child, which opens the checkpoint anew."""

    def __init__(self, directory: str, precision: str, device: str, model: Model) -> None:
        self._arguments = (os.path.realpath(directory), precision, device)
        self._model: Model | None = model
        self._process: int | None = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None, "_process": None}

    def model(self) -> Model:
        if self._model is None or self._process != os.getpid():
            self._model, self._process = _open(*self._arguments), os.getpid()
        return self._model


class _Preprocess(_Part):
    def __call__(self, image: Any) -> npt.NDArray[np.float32]:
        """A PIL image, or whatever Model.embed_images takes -> [3, S, S]."""
        return self.model().preprocess([image])[0]


class _Tokenize(_Part):
    def __call__(self, texts: str | Iterable[str], context_length: int | None = None) -> npt.NDArray[np.int64]:
        """[N, T]."""
        model = self.model()
        _refuse("it is as the checkpoint's config.json says",
                context_length=(context_length or model.text_length, model.text_length))
        return model.tokenize([texts] if isinstance(texts, str) else texts)


class OpenClipModel:
    """What create_model_and_transforms gives."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.logit_scale = np.float32(model.logit_scale)
        self.logit_bias = np.float32(model.logit_bias)
        self.context_length = model.text_length

    def encode_image(self, image: npt.ArrayLike, normalize: bool = False) -> npt.NDArray[np.float32]:
        """[N, 3, S, S] -> [N, D]."""
        rows = self.model.encode_pixels(image)
        return normalized(rows) if normalize else rows

    def encode_text(self, text: npt.ArrayLike, normalize: bool = False) -> npt.NDArray[np.float32]:
        """[N, T] -> [N, D]."""
        rows = self.model.encode_tokens(text)
        return normalized(rows) if normalize else rows

    def eval(self) -> OpenClipModel:
        return self


def create_model_and_transforms(
        model_name: str, pretrained: str | None = None, *, load_weights: bool = True, precision: str | None = None,
        device: Any = None, jit: bool = False, force_quick_gelu: bool = False, force_custom_text: bool = False,
        force_patch_dropout: float | None = None, force_image_size: Any = None, force_context_length: int | None = None,
        force_naflex_vision: bool = False, image_mean: Any = None, image_std: Any = None,
        image_interpolation: str | None = None, image_resize_mode: str | None = None, aug_cfg: Any = None,
        pretrained_image: bool = False, pretrained_text: bool = True, pretrained_hf: bool = True,
        pretrained_image_path: str | None = None, pretrained_text_path: str | None = None, cache_dir: str | None = None,
        output_dict: bool | None = None, load_weights_only: bool = True, weights_only: bool = True,
) -> tuple[OpenClipModel, Callable[[Any], npt.NDArray[np.float32]], Callable[[Any], npt.NDArray[np.float32]]]:
    """(model, preprocess, preprocess): the transforms of training and of validation are the same here.

    The arguments are those of open_clip 2 and 3. The third one differs between these, so they are taken by name only.

    pretrained: a tag, which says nothing here; a file of weights is refused.
    precision, device: those of siglip.Model, and its defaults; a torch.device is taken too.
    """
    # pretrained_image to pretrained_hf tell what a tower begins with, before the checkpoint's weights are loaded.
    del jit, force_custom_text, force_patch_dropout, pretrained_image, pretrained_text, pretrained_hf, cache_dir
    del output_dict, load_weights_only, weights_only
    if pretrained and (os.path.exists(pretrained) and not os.path.samefile(pretrained, model_name)
                       or pretrained.endswith((".pt", ".pth", ".bin", ".safetensors"))):
        raise ValueError(f"pretrained: expected a tag, got the file {pretrained!r}; weights are those of the folder")
    _refuse("weights are those of the folder", load_weights=(load_weights, True),
            pretrained_image_path=(pretrained_image_path, None), pretrained_text_path=(pretrained_text_path, None))
    _refuse("it is as the checkpoint's config.json says", force_quick_gelu=(force_quick_gelu, False),
            force_image_size=(force_image_size, None), force_context_length=(force_context_length, None),
            force_naflex_vision=(force_naflex_vision, False))
    _refuse("it is as the checkpoint's preprocessor_config.json says", image_mean=(image_mean, None),
            image_std=(image_std, None), image_interpolation=(image_interpolation, None),
            image_resize_mode=(image_resize_mode, None), aug_cfg=(aug_cfg, None))
    arguments = (os.fspath(model_name), precision or "auto", "auto" if device is None else str(device))
    model = _open(*arguments)
    preprocess = _Preprocess(*arguments, model)
    return OpenClipModel(model), preprocess, preprocess


def create_model_from_pretrained(model_name: str, pretrained: str | None = None, *, return_transform: bool = True,
                                 **arguments: Any) -> Any:
    """(model, preprocess), or the model alone. arguments: those of create_model_and_transforms."""
    model, _, preprocess = create_model_and_transforms(model_name, pretrained, **arguments)
    return (model, preprocess) if return_transform else model


def get_tokenizer(model_name: str, context_length: int | None = None,
                  cache_dir: str | None = None) -> Callable[..., npt.NDArray[np.int64]]:
    """Texts -> [N, T]. That of the model that is open, if there is one."""
    del cache_dir
    directory = os.path.realpath(model_name)
    model = _opened.get((directory, _files(directory))) or _open(directory, "auto", "auto")
    tokenize = _Tokenize(directory, "auto", "auto", model)
    tokenize([], context_length)
    return tokenize


def _is_one(inputs: Any) -> bool:
    """One text or image, and no list of them."""
    if isinstance(inputs, np.ndarray):
        return inputs.ndim == 0 or inputs.dtype.kind not in "UO"
    one = (str, bytes, bytearray, memoryview, os.PathLike, Mapping)
    return isinstance(inputs, one) or not isinstance(inputs, Iterable)


# What sentence-transformers takes a str for a picture by.
_PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tiff", ".webp")


def _item(item: Any) -> Any:
    """A str that is a text, or what Model.embed_images takes."""
    if isinstance(item, Mapping):
        if len(item) != 1 or next(iter(item)) not in ("text", "image"):
            raise TypeError(f'expected {{"text": ...}} or {{"image": ...}}, got the keys {list(item)}')
        key, value = next(iter(item.items()))
        if key == "text":
            return value
        item = pathlib.Path(value) if isinstance(value, str) and os.path.exists(value) else value
        if isinstance(item, str):
            raise ValueError(f"image: expected bytes, a file, a PIL image or an array, got {item[:80]!r}")
    elif isinstance(item, str) and item.lower().endswith(_PICTURES):
        if os.path.isfile(item):
            return pathlib.Path(item)
        if re.match("https?://", item):
            raise ValueError(f"expected the bytes of a picture, got its address {item[:80]!r}, which is not fetched")
    elif isinstance(item, str) and item.startswith("data:image/"):
        raise ValueError("expected the bytes of a picture, got a data: address")
    return item


def _embedded(embed: Callable[[list[Any]], npt.NDArray[np.float32]], items: list[Any],
              chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """embed() of the chosen items; an error names the place among all of them."""
    try:
        return embed([item for item, is_chosen in zip(items, chosen) if is_chosen])
    except (TypeError, ValueError) as error:
        found = re.match(r"item (\d+)( of \d+)?", str(error))
        if found is None:
            raise
        place = np.flatnonzero(chosen)[int(found[1])]
        of_all = f" of {len(items)}" if found[2] else ""
        raise type(error)(f"item {place}{of_all}{str(error)[found.end():]}") from error


class SentenceTransformer:
    """encode() of texts, PIL images, or both mixed, alone or in a list; {"text": ...} and {"image": ...} say which.

    A str is a text, unless it ends as a picture's name does and there is such a file; pathlib.Path is one for sure.
    """

    def __init__(self, model_name_or_path: str, *, modules: Any = None, device: Any = None,
                 prompts: dict[str, str] | None = None, default_prompt_name: str | None = None,
                 similarity_fn_name: str | None = None, cache_folder: str | None = None, trust_remote_code: bool = False,
                 revision: str | None = None, local_files_only: bool = False, token: bool | str | None = None,
                 truncate_dim: int | None = None, model_kwargs: dict[str, Any] | None = None,
                 tokenizer_kwargs: dict[str, Any] | None = None, processor_kwargs: dict[str, Any] | None = None,
                 config_kwargs: dict[str, Any] | None = None, model_card_data: Any = None, backend: str = "torch",
                 **options: Any) -> None:
        """options: those of siglip.Model.

        truncate_dim: so many first columns, where a call does not say how many.
        cache_folder to token, model_card_data, backend: say nothing here, where nothing is downloaded.
        """
        del cache_folder, trust_remote_code, revision, local_files_only, token, model_card_data, backend
        _refuse("a checkpoint has no named prompts", prompts=(prompts or None, None),
                default_prompt_name=(default_prompt_name, None))
        _refuse("it is as the checkpoint says", modules=(modules, None), model_kwargs=(model_kwargs or None, None),
                tokenizer_kwargs=(tokenizer_kwargs or None, None), processor_kwargs=(processor_kwargs or None, None),
                config_kwargs=(config_kwargs or None, None))
        _refuse("there is no other", similarity_fn_name=(similarity_fn_name or "cosine", "cosine"))
        self.model = Model(model_name_or_path, device="auto" if device is None else str(device), **options)
        self.truncate_dim = truncate_dim

    def get_embedding_dimension(self) -> int:
        return min(self.truncate_dim or self.model.embedding_size, self.model.embedding_size)

    get_sentence_embedding_dimension = get_embedding_dimension

    def encode(self, inputs: Any = None, prompt_name: str | None = None, prompt: str | None = None, batch_size: int = 32,
               show_progress_bar: bool | None = None, output_value: str | None = "sentence_embedding",
               precision: str = "float32", convert_to_numpy: bool = True, convert_to_tensor: bool = False,
               device: Any = None, normalize_embeddings: bool = False, truncate_dim: int | None = None,
               pool: Any = None, chunk_size: int | None = None, *, sentences: Any = None) -> npt.NDArray[np.float32]:
        """[N, D]; [D] for one that is not in a list.

        sentences: what `inputs` was called until sentence-transformers 5.

        prompt: is put before each text.
        truncate_dim: so many first columns, before normalising; None: as the encoder was made.
        batch_size, show_progress_bar, chunk_size: not needed here.
        """
        del batch_size, show_progress_bar, chunk_size
        _refuse("a checkpoint has no named prompts", prompt_name=(prompt_name, None))
        _refuse("there are no others", output_value=(output_value, "sentence_embedding"),
                precision=(precision, "float32"))
        _refuse("torch.from_numpy makes a tensor of an array", convert_to_numpy=(convert_to_numpy, True),
                convert_to_tensor=(convert_to_tensor, False))
        _refuse("it is chosen when the checkpoint is opened", device=(device, None), pool=(pool, None))
        if sentences is not None:
            if inputs is not None:
                raise TypeError("sentences: another name of inputs, which is given too")
            inputs = sentences
        if hasattr(inputs, "iloc") and hasattr(inputs, "columns"):
            raise TypeError("inputs: expected a list, got a DataFrame: name one of its columns")
        one = _is_one(inputs)
        items = _converted([inputs[()] if isinstance(inputs, np.ndarray) else inputs] if one else inputs, _item, None)
        is_text = np.array([isinstance(item, str) for item in items], bool)
        rows = np.empty((len(items), self.model.embedding_size), np.float32)
        rows[is_text] = _embedded(lambda texts: self.model.embed_texts([(prompt or "") + x for x in texts]), items, is_text)
        rows[~is_text] = _embedded(self.model.embed_images, items, ~is_text)
        rows = rows[:, :(self.truncate_dim if truncate_dim is None else truncate_dim) or None]
        if normalize_embeddings:
            rows = normalized(rows)
        return rows[0] if one else rows

    # These differ there in the prompts that a checkpoint names, and ours names none.
    encode_query = encode
    encode_document = encode

    @staticmethod
    def similarity(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Cosines, [N, M]."""
        return normalized(np.atleast_2d(a)) @ normalized(np.atleast_2d(b)).T

    @staticmethod
    def similarity_pairwise(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Cosines of row i of both, [N]."""
        return (normalized(np.atleast_2d(a)) * normalized(np.atleast_2d(b))).sum(axis=-1)
