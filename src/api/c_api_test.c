/* The C API from C: the header's promises, with the demo checkpoint. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "siglip/siglip_c.h"

#define EXPECT(condition)                                                      \
  do {                                                                         \
    if (!(condition)) {                                                        \
      fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                                 \
    }                                                                          \
  } while (0)

/* Ends the test if a call failed. */
static void Succeed(siglip_error* error, int line) {
  if (error == NULL) return;
  fprintf(stderr, "line %d: error %d: %s\n", line, siglip_error_code(error),
          siglip_error_message(error));
  exit(1);
}
#define SUCCEED(call) Succeed(call, __LINE__)

/* Ends the test unless a call failed with this code and words. */
static void Fail(siglip_error* error, int code, const char* words, int line) {
  if (error == NULL || siglip_error_code(error) != code ||
      strstr(siglip_error_message(error), words) == NULL) {
    fprintf(stderr, "line %d: expected error %d with \"%s\", got %d: %s\n", line, code, words,
            siglip_error_code(error), siglip_error_message(error));
    exit(1);
  }
  siglip_error_free(error);
}
#define FAIL(call, code, words) Fail(call, code, words, __LINE__)

static const char* const kPicture = "data/demo/examples/seven.png";

static siglip_image PathImage(const char* path) {
  siglip_image image = {SIGLIP_IMAGE_PATH, path, strlen(path), 0, 0};
  return image;
}

static siglip_text Text(const char* words) {
  siglip_text text = {words, strlen(words)};
  return text;
}

static float* Floats(int64_t count) {
  float* floats = malloc((size_t)count * sizeof(float));
  EXPECT(floats != NULL);
  return floats;
}

/* The whole file; *size is its size. */
static void* ReadAll(const char* path, size_t* size) {
  static char bytes[1 << 20];
  FILE* file = fopen(path, "rb");
  EXPECT(file != NULL);
  *size = fread(bytes, 1, sizeof bytes, file);
  fclose(file);
  return bytes;
}

static void TestOpenErrors(void) {
  siglip_model* model = NULL;
  siglip_options options = SIGLIP_OPTIONS_INIT;
  FAIL(siglip_model_open("/nonexistent", NULL, &model), SIGLIP_NOT_FOUND, "/nonexistent");
  FAIL(siglip_model_open(NULL, NULL, &model), SIGLIP_INVALID_ARGUMENT, "directory");
  FAIL(siglip_model_open("models/demo", NULL, NULL), SIGLIP_INVALID_ARGUMENT, "model");
  options.precision = "int4";
  FAIL(siglip_model_open("models/demo", &options, &model), SIGLIP_INVALID_ARGUMENT, "int4");
  options.struct_size = 3;
  FAIL(siglip_model_open("models/demo", &options, &model), SIGLIP_INVALID_ARGUMENT, "struct_size");
  EXPECT(model == NULL);
  FAIL(siglip_set_log_level("loud"), SIGLIP_INVALID_ARGUMENT, "loud");
  SUCCEED(siglip_set_log_level("error"));
}

/* A file, its bytes and its pixels' path through the steps give the same row. */
static void TestWaysOfAnImage(siglip_model* model) {
  const int64_t width = siglip_embedding_size(model), side = siglip_image_size(model);
  float *rows = Floats(2 * width), *pixels = Floats(3 * side * side), *row = Floats(width);
  siglip_image images[2] = {PathImage(kPicture), {SIGLIP_IMAGE_FILE, NULL, 0, 0, 0}};
  images[1].data = ReadAll(kPicture, &images[1].size);
  SUCCEED(siglip_embed_images(model, images, 2, rows, NULL));
  EXPECT(memcmp(rows, rows + width, (size_t)width * sizeof(float)) == 0);
  SUCCEED(siglip_preprocess(model, images, 1, pixels, NULL));
  SUCCEED(siglip_encode_pixels(model, pixels, 1, row));
  EXPECT(memcmp(rows, row, (size_t)width * sizeof(float)) == 0);
  free(rows);
  free(pixels);
  free(row);
}

/* Pixels of the model's own size are not resized: each is normalised, mean and std 0.5. */
static void TestRgb(siglip_model* model) {
  const int64_t side = siglip_image_size(model), area = side * side;
  unsigned char* rgb = malloc((size_t)area * 3);
  float* pixels = Floats(3 * area);
  siglip_image image = {SIGLIP_IMAGE_RGB, rgb, (size_t)area * 3, side, side};
  EXPECT(rgb != NULL);
  for (int64_t i = 0; i < area * 3; ++i) rgb[i] = (unsigned char)(i % 251);
  SUCCEED(siglip_preprocess(model, &image, 1, pixels, NULL));
  for (int64_t i = 0; i < area; ++i) {
    for (int64_t c = 0; c < 3; ++c) {
      EXPECT(pixels[c * area + i] == ((float)rgb[3 * i + c] / 255.0f - 0.5f) / 0.5f);
    }
  }
  image.size -= 1;
  FAIL(siglip_preprocess(model, &image, 1, pixels, NULL), SIGLIP_INVALID_ARGUMENT, "3 bytes");
  image.width = -1;
  FAIL(siglip_preprocess(model, &image, 1, pixels, NULL), SIGLIP_INVALID_ARGUMENT, "-1");
  image.width = image.height = INT64_MAX;
  FAIL(siglip_preprocess(model, &image, 1, pixels, NULL), SIGLIP_INVALID_ARGUMENT, "RGB");
  image.width = image.height = 0;
  image.size = 0;
  FAIL(siglip_preprocess(model, &image, 1, pixels, NULL), SIGLIP_INVALID_ARGUMENT, "above 0");
  free(rgb);
  free(pixels);
}

static void TestTextsAndTokens(siglip_model* model) {
  const int64_t width = siglip_embedding_size(model), length = siglip_text_length(model);
  float *rows = Floats(2 * width), *again = Floats(2 * width);
  int64_t* ids = malloc((size_t)(2 * length) * sizeof(int64_t));
  siglip_text texts[2];
  texts[0] = Text("a red circle");
  texts[1] = Text("");
  EXPECT(ids != NULL);
  SUCCEED(siglip_embed_texts(model, texts, 2, rows, NULL));
  SUCCEED(siglip_tokenize(model, texts, 2, ids, NULL));
  SUCCEED(siglip_encode_tokens(model, ids, 2, again));
  EXPECT(memcmp(rows, again, (size_t)(2 * width) * sizeof(float)) == 0);
  ids[0] = siglip_vocab_size(model);
  FAIL(siglip_encode_tokens(model, ids, 2, again), SIGLIP_INVALID_ARGUMENT, "");
  free(rows);
  free(again);
  free(ids);
}

/* Bad items fail alone if their errors are asked for, and fail the call if not. */
static void TestBadItems(siglip_model* model) {
  const int64_t width = siglip_embedding_size(model);
  float *rows = Floats(3 * width), *alone = Floats(width);
  siglip_error* errors[3];
  siglip_image images[3] = {
      PathImage("/no/such.png"), PathImage(kPicture), {SIGLIP_IMAGE_FILE, "no image", 8, 0, 0}};
  siglip_text text = {"\xff", 1};
  SUCCEED(siglip_embed_images(model, images + 1, 1, alone, NULL));
  SUCCEED(siglip_embed_images(model, images, 3, rows, errors));
  EXPECT(errors[1] == NULL);
  EXPECT(memcmp(rows + width, alone, (size_t)width * sizeof(float)) == 0);
  EXPECT(isnan(rows[0]) && isnan(rows[3 * width - 1]));
  FAIL(errors[0], SIGLIP_NOT_FOUND, "/no/such.png");
  FAIL(errors[2], SIGLIP_INVALID_ARGUMENT, "8 bytes");
  FAIL(siglip_embed_images(model, images + 1, 2, rows, NULL), SIGLIP_INVALID_ARGUMENT,
       "item 1 of 2");
  FAIL(siglip_embed_texts(model, &text, 1, rows, NULL), SIGLIP_INVALID_ARGUMENT, "offset 0");
  SUCCEED(siglip_embed_texts(model, &text, 1, rows, errors));
  FAIL(errors[0], SIGLIP_INVALID_ARGUMENT, "offset 0");
  images[0].kind = 7;
  FAIL(siglip_embed_images(model, images, 1, rows, errors), SIGLIP_INVALID_ARGUMENT, "got 7");
  FAIL(siglip_embed_images(model, NULL, 1, rows, NULL), SIGLIP_INVALID_ARGUMENT, "items");
  FAIL(siglip_embed_images(model, images, 1, NULL, NULL), SIGLIP_INVALID_ARGUMENT, "output");
  FAIL(siglip_embed_images(NULL, images, 1, rows, NULL), SIGLIP_INVALID_ARGUMENT, "model");
  images[2].data = NULL;
  FAIL(siglip_embed_images(model, images + 1, 2, rows, errors), SIGLIP_INVALID_ARGUMENT,
       "item 1, data: expected a pointer, got NULL");
  SUCCEED(siglip_embed_images(model, NULL, 0, NULL, NULL));
  SUCCEED(siglip_embed_texts(model, NULL, 0, NULL, NULL));
  free(rows);
  free(alone);
}

/* Messages are UTF-8, whatever they quote, and are not cut. */
static void TestMessages(siglip_model* model) {
  float* row = Floats(siglip_embedding_size(model));
  siglip_model* none = NULL;
  siglip_image image = PathImage("/no/\xff\xc3.png");
  FAIL(siglip_embed_images(model, &image, 1, row, NULL), SIGLIP_NOT_FOUND,
       "/no/\xEF\xBF\xBD\xEF\xBF\xBD.png");
  FAIL(siglip_model_open("/no/\xff", NULL, &none), SIGLIP_NOT_FOUND, "/no/\xEF\xBF\xBD");
  image.data = "data/demo/examples/seven.png\0evil";
  image.size = strlen(kPicture) + 5;
  FAIL(siglip_embed_images(model, &image, 1, row, NULL), SIGLIP_INVALID_ARGUMENT,
       "seven.png\xEF\xBF\xBD"
       "evil'");
  image.size = strlen(kPicture) + 1;
  FAIL(siglip_preprocess(model, &image, 1, row, NULL), SIGLIP_INVALID_ARGUMENT, "NUL");
  free(row);
}

/* What cannot be an item is its caller's fault, and what no memory holds is not ours. */
static void TestFoldersAndCounts(siglip_model* model) {
  float* row = Floats(siglip_embedding_size(model));
  int64_t ids[1];
  siglip_image image = PathImage("data/demo/examples");
  siglip_text text = Text("x");
  FAIL(siglip_embed_images(model, &image, 1, row, NULL), SIGLIP_INVALID_ARGUMENT,
       "data/demo/examples");
  image = PathImage("data/demo/examples/seven.png/x");
  FAIL(siglip_embed_images(model, &image, 1, row, NULL), SIGLIP_INVALID_ARGUMENT, "seven.png/x");
  FAIL(siglip_embed_images(model, &image, SIZE_MAX, row, NULL), SIGLIP_RESOURCE_EXHAUSTED, "");
  FAIL(siglip_preprocess(model, &image, SIZE_MAX, row, NULL), SIGLIP_RESOURCE_EXHAUSTED, "");
  FAIL(siglip_embed_texts(model, &text, SIZE_MAX, row, NULL), SIGLIP_RESOURCE_EXHAUSTED, "");
  FAIL(siglip_tokenize(model, &text, SIZE_MAX, ids, NULL), SIGLIP_RESOURCE_EXHAUSTED, "");
  FAIL(siglip_encode_pixels(model, row, SIZE_MAX, row), SIGLIP_RESOURCE_EXHAUSTED, "");
  FAIL(siglip_encode_tokens(model, ids, SIZE_MAX, row), SIGLIP_RESOURCE_EXHAUSTED, "");
  free(row);
}

static void TestClassifier(siglip_model* model) {
  float* row = Floats(siglip_embedding_size(model));
  siglip_image image = PathImage(kPicture);
  siglip_text labels[3], prompt = Text("A photo of {text}.");
  siglip_classifier* classifier = NULL;
  double probabilities[3];
  labels[0] = Text("star");
  labels[1] = Text("seven");
  labels[2] = Text("circle");
  SUCCEED(siglip_embed_images(model, &image, 1, row, NULL));
  SUCCEED(siglip_classifier_create(model, labels, 3, &prompt, 1, &classifier));
  SUCCEED(siglip_classify(classifier, row, 1, probabilities));
  EXPECT(probabilities[1] > probabilities[0] && probabilities[1] > probabilities[2]);
  siglip_classifier_free(classifier);
  FAIL(siglip_classifier_create(model, labels, 0, &prompt, 1, &classifier), SIGLIP_INVALID_ARGUMENT,
       "labels");
  FAIL(siglip_classifier_create(model, labels, 1, NULL, 0, &classifier), SIGLIP_INVALID_ARGUMENT,
       "templates: expected at least one, got none");
  FAIL(siglip_classifier_create(model, NULL, 3, &prompt, 1, &classifier), SIGLIP_INVALID_ARGUMENT,
       "labels: expected a pointer, got NULL");
  labels[2].data = NULL;
  FAIL(siglip_classifier_create(model, labels, 3, &prompt, 1, &classifier), SIGLIP_INVALID_ARGUMENT,
       "label 2, data");
  labels[2] = Text("circle");
  prompt = Text("A photo.");
  FAIL(siglip_classifier_create(model, labels, 3, &prompt, 1, &classifier), SIGLIP_INVALID_ARGUMENT,
       "template \"A photo.\": expected {text} or {label} in it, got neither");
  free(row);
}

/* A NaFlex checkpoint has functions of its own for the steps, and the others' are refused; options
 * of the first version are taken. */
static void TestNaflex(siglip_model* fixed) {
  siglip_model* model = NULL;
  siglip_options options = SIGLIP_OPTIONS_INIT;
  siglip_image images[2] = {PathImage(kPicture), PathImage("tests/data/image/tall.jpg")};
  int64_t width, values, shapes[4] = {-1, -1, -1, -1};
  float *pixels, *rows, *again;
  options.num_threads = 2;
  options.precision = "fp32";
  options.max_patches = 50;
  SUCCEED(siglip_model_open("tests/golden/naflex", &options, &model));
  EXPECT(siglip_max_patches(model) == 50 && siglip_patch_size(model) == 8);
  EXPECT(siglip_image_size(model) == 0);
  EXPECT(siglip_max_patches(fixed) == 0 && siglip_image_size(fixed) == 48);
  width = siglip_embedding_size(model);
  values = 50 * 8 * 8 * 3;
  pixels = Floats(2 * values);
  rows = Floats(2 * width);
  again = Floats(2 * width);
  SUCCEED(siglip_embed_images(model, images, 2, rows, NULL));
  SUCCEED(siglip_preprocess_patches(model, images, 2, pixels, shapes, NULL));
  EXPECT(shapes[0] == 7 && shapes[1] == 7 && shapes[2] > shapes[3]);
  EXPECT(pixels[values - 1] == 0 && pixels[49 * 8 * 8 * 3 - 1] != 0);
  SUCCEED(siglip_encode_patches(model, pixels, shapes, 2, again));
  EXPECT(memcmp(rows, again, (size_t)(2 * width) * sizeof(float)) == 0);
  shapes[3] = INT64_MAX;
  FAIL(siglip_encode_patches(model, pixels, shapes, 2, again), SIGLIP_INVALID_ARGUMENT, "image 1");
  FAIL(siglip_encode_patches(model, pixels, NULL, 2, again), SIGLIP_INVALID_ARGUMENT,
       "spatial_shapes");
  FAIL(siglip_preprocess(model, images, 2, pixels, NULL), SIGLIP_FAILED_PRECONDITION, "NaFlex");
  FAIL(siglip_encode_pixels(model, pixels, 2, again), SIGLIP_FAILED_PRECONDITION, "NaFlex");
  FAIL(siglip_preprocess_patches(fixed, images, 2, pixels, shapes, NULL),
       SIGLIP_FAILED_PRECONDITION, "fixed resolution");
  FAIL(siglip_encode_patches(fixed, pixels, shapes, 2, again), SIGLIP_FAILED_PRECONDITION,
       "fixed resolution");
  siglip_model_free(model);
  options.struct_size = offsetof(siglip_options, max_patches);
  options.max_patches = -1;
  SUCCEED(siglip_model_open("tests/golden/naflex", &options, &model));
  EXPECT(siglip_max_patches(model) == 100);
  siglip_model_free(model);
  free(pixels);
  free(rows);
  free(again);
}

/* A forked child is told, and its exit does not wait for threads that it has not. */
static void TestFork(siglip_model* model) {
  const pid_t child = fork();
  int status = 0;
  EXPECT(child >= 0);
  if (child == 0) {
    float row[4096];
    siglip_text text = Text("x");
    siglip_error* error = siglip_embed_texts(model, &text, 1, row, NULL);
    const int code = siglip_error_code(error);
    siglip_error_free(error);
    siglip_model_free(model);
    _exit(code);
  }
  EXPECT(waitpid(child, &status, 0) == child);
  EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == SIGLIP_FAILED_PRECONDITION);
}

int main(void) {
  siglip_model* model = NULL;
  siglip_options options = SIGLIP_OPTIONS_INIT;
  TestOpenErrors();
  options.num_threads = 2;
  options.precision = "fp32";
  SUCCEED(siglip_model_open("models/demo", &options, &model));
  EXPECT(strstr(siglip_engine(model), "fp32") != NULL);
  EXPECT(siglip_logit_scale(model) > 0 && siglip_logit_bias(model) < 0);
  EXPECT(strchr(siglip_version(), '.') != NULL);
  TestWaysOfAnImage(model);
  TestRgb(model);
  TestTextsAndTokens(model);
  TestBadItems(model);
  TestMessages(model);
  TestFoldersAndCounts(model);
  TestClassifier(model);
  TestNaflex(model);
  TestFork(model);
  siglip_model_free(model);
  siglip_model_free(NULL);
  siglip_error_free(NULL);
  siglip_classifier_free(NULL);
  puts("c_api_test: passed");
  return 0;
}
