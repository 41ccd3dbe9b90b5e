/* Each allocation of a call fails in turn: it costs the item that it was for, or the call. The
 * process lives, and a picture that there was no memory for is not called damaged. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "siglip/siglip_c.h"

/* What the C library's own allocator is called. */
void* __libc_malloc(size_t size);
void* __libc_realloc(void* memory, size_t size);
void* __libc_memalign(size_t alignment, size_t size);

static long left = -1; /* allocations until one fails; below 0: none does */

static int Fails(void) {
  const long before = __atomic_load_n(&left, __ATOMIC_RELAXED);
  return before >= 0 && __atomic_fetch_sub(&left, 1, __ATOMIC_RELAXED) == 0;
}

void* malloc(size_t size) { return Fails() ? NULL : __libc_malloc(size); }
void* realloc(void* memory, size_t size) { return Fails() ? NULL : __libc_realloc(memory, size); }
void* aligned_alloc(size_t alignment, size_t size) {
  return Fails() ? NULL : __libc_memalign(alignment, size);
}

#define ITEMS 5
/* Of each item when nothing fails. */
static const int kCodes[ITEMS] = {0, 0, SIGLIP_INVALID_ARGUMENT, SIGLIP_INVALID_ARGUMENT,
                                  SIGLIP_NOT_FOUND};

/* Whether the error, which is freed, is `code` or says that there was no memory. */
static int IsExpected(siglip_error* error, int code, long allocation) {
  const int got = siglip_error_code(error);
  if (got != code && got != SIGLIP_RESOURCE_EXHAUSTED) {
    fprintf(stderr, "allocation %ld: expected error %d or %d, got %d: %s\n", allocation, code,
            SIGLIP_RESOURCE_EXHAUSTED, got, siglip_error_message(error));
    return 0;
  }
  if (got != 0 && siglip_error_message(error)[0] == '\0') return 0;
  siglip_error_free(error);
  return 1;
}

int main(void) {
  static unsigned char rgb[8 * 8 * 3];
  static float want[ITEMS * 1024], rows[ITEMS * 1024];
  siglip_error* errors[ITEMS] = {NULL};
  const siglip_image images[ITEMS] = {{SIGLIP_IMAGE_PATH, "data/demo/examples/seven.png", 28, 0, 0},
                                      {SIGLIP_IMAGE_RGB, rgb, sizeof rgb, 8, 8},
                                      {SIGLIP_IMAGE_RGB, rgb, sizeof rgb - 1, 8, 8},
                                      {SIGLIP_IMAGE_FILE, "no image", 8, 0, 0},
                                      {SIGLIP_IMAGE_PATH, "/no/such.png", 12, 0, 0}};
  siglip_options options = SIGLIP_OPTIONS_INIT;
  siglip_model* model = NULL;
  long allocation = 0, i;
  size_t row_bytes;
  options.num_threads = 2;
  options.precision = "fp32";
  if (siglip_model_open("models/demo", &options, &model) != NULL) return 1;
  row_bytes = (size_t)siglip_embedding_size(model) * sizeof(float);
  if (row_bytes > sizeof want / ITEMS) return 1;
  for (allocation = -1;; ++allocation) { /* the first time none fails */
    siglip_error* error;
    int failed;
    float* const into = allocation < 0 ? want : rows;
    __atomic_store_n(&left, allocation, __ATOMIC_RELAXED);
    error = siglip_embed_images(model, images, ITEMS, into, errors);
    failed = __atomic_exchange_n(&left, -1, __ATOMIC_RELAXED) < 0;
    if (error != NULL && !IsExpected(error, SIGLIP_RESOURCE_EXHAUSTED, allocation)) return 1;
    for (i = 0; error == NULL && i < ITEMS; ++i) {
      const size_t at = (size_t)i * row_bytes / sizeof(float);
      if (errors[i] == NULL && memcmp(into + at, want + at, row_bytes) != 0) return 1;
      if (!IsExpected(errors[i], kCodes[i], allocation)) return 1;
    }
    if (allocation >= 0 && !failed) break;
  }
  siglip_model_free(model);
  printf("c_api_memory_test: passed, %ld allocations\n", allocation);
  return allocation > 20 ? 0 : 1;
}
