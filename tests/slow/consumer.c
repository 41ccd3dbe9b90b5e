/* A program of somebody else's: the length of a picture's embedding. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <siglip/siglip_c.h>

int main(int argc, char** argv) {
  siglip_model* model = NULL;
  if (argc != 3) return 2;
  siglip_error* error = siglip_model_open(argv[1], NULL, &model);
  float* row = error == NULL ? malloc((size_t)siglip_embedding_size(model) * sizeof(float)) : NULL;
  siglip_image image = {SIGLIP_IMAGE_PATH, argv[2], strlen(argv[2]), 0, 0};
  if (error == NULL) error = siglip_embed_images(model, &image, 1, row, NULL);
  if (error != NULL) {
    fprintf(stderr, "%s\n", siglip_error_message(error));
    return 1;
  }
  printf("%lld numbers, the first is %g\n", (long long)siglip_embedding_size(model), row[0]);
  free(row);
  siglip_model_free(model);
  return 0;
}
