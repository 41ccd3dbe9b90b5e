/* A host of plug-ins loads libsiglip.so, uses it, unloads it, and does so again. */
#include <dlfcn.h>
#include <stdio.h>

#include "siglip/siglip_c.h"

static int Use(const char* library) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  siglip_error* (*model_open)(const char*, const siglip_options*, siglip_model**) = NULL;
  void (*model_free)(siglip_model*) = NULL;
  siglip_options options = SIGLIP_OPTIONS_INIT;
  siglip_model* model = NULL;
  if (handle == NULL) return fprintf(stderr, "%s\n", dlerror()), 1;
  *(void**)&model_open = dlsym(handle, "siglip_model_open");
  *(void**)&model_free = dlsym(handle, "siglip_model_free");
  options.num_threads = 1;
  options.precision = "fp32";
  options.cache_dir = "README.md"; /* no folder: a warning */
  if (model_open("models/demo", &options, &model) != NULL) return 1;
  model_free(model);
  return dlclose(handle);
}

int main(int argc, char** argv) {
  int i;
  for (i = 0; i < 3; ++i) {
    if (argc != 2 || Use(argv[1]) != 0) return 1;
  }
  puts("c_api_unload_test: passed");
  return 0;
}
