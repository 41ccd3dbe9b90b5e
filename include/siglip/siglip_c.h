/* siglip.cpp for C, and for every language that calls C: libsiglip.so.
 *
 *   siglip_model* model = NULL;
 *   siglip_error* error = siglip_model_open("models/demo", NULL, &model);
 *   if (error != NULL) return Report(siglip_error_message(error));
 *   float* row = malloc(siglip_embedding_size(model) * sizeof(float));
 *   siglip_text text = {"a photo of a cat", 16};
 *   error = siglip_embed_texts(model, &text, 1, row, NULL);
 *   siglip_model_free(model);
 *
 * Stable: what is declared here keeps its meaning and its layout for as long as the library's name
 * is libsiglip.so.0. Structs that may grow begin with their size.
 *
 * Errors: a function that can fail returns NULL, or an error that the caller frees. Nothing here
 * aborts, exits or throws. NULL where a pointer is needed is SIGLIP_INVALID_ARGUMENT; the functions
 * that only tell something about a model need one.
 *
 * Ownership: all inputs are borrowed for the call; outputs are the caller's memory, of the size
 * that the function states, row-major.
 *
 * Threads: a model, and a classifier, may be used by several threads at once. Encoding calls queue,
 * as each uses all of the model's threads. Freeing needs all calls to have returned. After fork()
 * the child cannot use a model that the parent opened: SIGLIP_FAILED_PRECONDITION; open it there.
 */
#ifndef SIGLIP_SIGLIP_C_H_
#define SIGLIP_SIGLIP_C_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SIGLIP_MUST_USE __attribute__((warn_unused_result))
#else
#define SIGLIP_MUST_USE
#endif

/* "0.1.0". */
const char* siglip_version(void);

/* What is written to stderr: "debug", "info", "warn" (until another is set), "error" or "off". For
 * the whole process, at any time. An unknown level is SIGLIP_INVALID_ARGUMENT. */
typedef struct siglip_error siglip_error;
SIGLIP_MUST_USE siglip_error* siglip_set_log_level(const char* level);

/* ---- Errors ---- */

/* gRPC's numbers. There are no others. */
enum {
  SIGLIP_INVALID_ARGUMENT = 3,    /* the image, the text or an argument is bad */
  SIGLIP_NOT_FOUND = 5,           /* no such file or folder */
  SIGLIP_PERMISSION_DENIED = 7,   /* a file or folder that may not be opened */
  SIGLIP_RESOURCE_EXHAUSTED = 8,  /* memory, disk, open files */
  SIGLIP_FAILED_PRECONDITION = 9, /* not possible in this state */
  SIGLIP_UNIMPLEMENTED = 12,
  SIGLIP_INTERNAL = 13,    /* and what a file system answers beside the others */
  SIGLIP_UNAVAILABLE = 14, /* a GPU or one of its libraries */
  SIGLIP_DATA_LOSS = 15    /* a kept file (cache_dir) is damaged */
};
int siglip_error_code(const siglip_error* error);
/* UTF-8, with U+FFFD for the bytes of a path or a text that are not: where, what was expected and
 * what came. Valid until the error is freed. */
const char* siglip_error_message(const siglip_error* error);
/* NULL is fine. */
void siglip_error_free(siglip_error* error);

/* ---- Models ---- */

typedef struct siglip_model siglip_model;

/* Zero and NULL mean the default. Begin with `siglip_options options = SIGLIP_OPTIONS_INIT;`.
 *
 * precision: of a CPU "fp32", "int16", "int8" or "bf16", of a GPU "bf16", "fp16" or "fp8"; "auto" is bf16 on a GPU,
 *            and on a CPU int16 where it is faster and a check at load finds it near enough to fp32.
 * device:    "cpu", "cuda" (the first GPU) or "cuda:N[,N...]"; "auto" is the first GPU where there is
 *            one, the GPU engine is installed and the precision is not a CPU's, and else the CPU. */
typedef struct siglip_options {
  size_t struct_size;    /* sizeof(siglip_options) */
  int32_t num_threads;   /* of the engine, and of preprocessing; 0 = one per core */
  int32_t pillow;        /* whose resize is reproduced: 12 or 13 (default) */
  int64_t max_pixels;    /* width * height of an image; default, and the most: Pillow's limit, 178,956,970 */
  const char* precision; /* "auto" (default) or another of the above */
  const char* device;    /* "auto" (default) or another of the above */
  const char* isa; /* instruction set: "auto" (default), "avx512", "avx2", ...; one per process */
  const char* cache_dir; /* keeps packed weights between starts, and shares them; default: none */
  int64_t max_patches;   /* NaFlex only: patches of an image; default: what the checkpoint says */
} siglip_options;
#define SIGLIP_OPTIONS_INIT \
  { sizeof(siglip_options), 0, 0, 0, NULL, NULL, NULL, NULL, 0 }

/* Opens a Hugging Face snapshot folder. `options` may be NULL. *model is set on success only. */
SIGLIP_MUST_USE siglip_error* siglip_model_open(const char* directory,
                                                const siglip_options* options,
                                                siglip_model** model);
/* NULL is fine. */
void siglip_model_free(siglip_model* model);

int64_t siglip_image_size(const siglip_model* model);     /* S: pixels are [3,S,S]; NaFlex: 0 */
int64_t siglip_patch_size(const siglip_model* model);     /* p */
/* N of a NaFlex checkpoint: pixels are [N,p*p*3] and a spatial shape. Of fixed resolution: 0. */
int64_t siglip_max_patches(const siglip_model* model);
int64_t siglip_embedding_size(const siglip_model* model); /* D */
int64_t siglip_text_length(const siglip_model* model);    /* T: ids per text */
int64_t siglip_vocab_size(const siglip_model* model);
/* As stored: the logit is cos * exp(logit_scale) + logit_bias. */
float siglip_logit_scale(const siglip_model* model);
float siglip_logit_bias(const siglip_model* model);
/* Device, instruction set, precision, threads. Valid as long as the model. */
const char* siglip_engine(const siglip_model* model);

/* ---- Images and texts ---- */

enum {
  SIGLIP_IMAGE_FILE = 0, /* data: the bytes of an image file */
  SIGLIP_IMAGE_PATH = 1, /* data: the path of one, without a terminating zero or any other */
  SIGLIP_IMAGE_RGB = 2   /* data: [height,width,3] 8-bit RGB, rows without gaps */
};
typedef struct siglip_image {
  int32_t kind;
  const void* data;
  size_t size;    /* bytes at data */
  int64_t width;  /* of SIGLIP_IMAGE_RGB */
  int64_t height; /* of SIGLIP_IMAGE_RGB */
} siglip_image;

/* UTF-8 of any length; it is cut to T tokens. */
typedef struct siglip_text {
  const char* data;
  size_t size;
} siglip_text;

/* The next five take lists of any length. A bad item fails alone:
 *   item_errors NULL   the first bad item's error is returned, naming its place in the list;
 *   else               [count]: NULL or the item's error, each to be freed; a bad item's row is NaN
 *                      (ids: 0). The call itself fails only as a whole, and then sets none.
 * After an error that is returned, nothing is known of the output. */

/* embeddings [count,D], not normalised. Images are read and decoded on all threads ahead of the engine. */
SIGLIP_MUST_USE siglip_error* siglip_embed_images(siglip_model* model, const siglip_image* images,
                                                  size_t count, float* embeddings,
                                                  siglip_error** item_errors);
/* embeddings [count,D], not normalised. */
SIGLIP_MUST_USE siglip_error* siglip_embed_texts(siglip_model* model, const siglip_text* texts,
                                                 size_t count, float* embeddings,
                                                 siglip_error** item_errors);
/* pixels [count,3,S,S], what the vision tower takes. Of fixed resolution only; otherwise
 * SIGLIP_FAILED_PRECONDITION. */
SIGLIP_MUST_USE siglip_error* siglip_preprocess(siglip_model* model, const siglip_image* images,
                                                size_t count, float* pixels,
                                                siglip_error** item_errors);
/* The same of NaFlex: pixels [count,N,p*p*3], an image's patches row by row, each in the order
 * (y, x, channel), zeros after the last; spatial_shapes [count,2], rows and columns of patches (a bad
 * item's are 0). */
SIGLIP_MUST_USE siglip_error* siglip_preprocess_patches(siglip_model* model,
                                                        const siglip_image* images, size_t count,
                                                        float* pixels, int64_t* spatial_shapes,
                                                        siglip_error** item_errors);
/* ids [count,T], padded. */
SIGLIP_MUST_USE siglip_error* siglip_tokenize(siglip_model* model, const siglip_text* texts,
                                              size_t count, int64_t* ids,
                                              siglip_error** item_errors);

/* pixels [count,3,S,S] -> embeddings [count,D]. Of fixed resolution only. */
SIGLIP_MUST_USE siglip_error* siglip_encode_pixels(siglip_model* model, const float* pixels,
                                                   size_t count, float* embeddings);
/* pixels [count,N,p*p*3] and spatial_shapes [count,2] -> embeddings [count,D]. NaFlex only. Rows of
 * pixels past an image's rows * columns patches are not read. */
SIGLIP_MUST_USE siglip_error* siglip_encode_patches(siglip_model* model, const float* pixels,
                                                    const int64_t* spatial_shapes, size_t count,
                                                    float* embeddings);
/* ids [count,T] -> embeddings [count,D]. */
SIGLIP_MUST_USE siglip_error* siglip_encode_tokens(siglip_model* model, const int64_t* ids,
                                                   size_t count, float* embeddings);

/* ---- Zero-shot classification ---- */

typedef struct siglip_classifier siglip_classifier;

/* Embeds each label in each template, whose {text} and {label} are replaced. Neither list may be
 * empty, and each template needs one of the two. The model may be freed afterwards. */
SIGLIP_MUST_USE siglip_error* siglip_classifier_create(siglip_model* model,
                                                       const siglip_text* labels, size_t num_labels,
                                                       const siglip_text* templates,
                                                       size_t num_templates,
                                                       siglip_classifier** classifier);
/* embeddings [count,D] of images -> probabilities [count,num_labels]: SigLIP's own sigmoid for each
 * label. They need not sum to 1. */
SIGLIP_MUST_USE siglip_error* siglip_classify(const siglip_classifier* classifier,
                                              const float* embeddings, size_t count,
                                              double* probabilities);
/* NULL is fine. */
void siglip_classifier_free(siglip_classifier* classifier);

#ifdef __cplusplus
}
#endif

#endif /* SIGLIP_SIGLIP_C_H_ */
