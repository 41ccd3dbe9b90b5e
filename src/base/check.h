#pragma once

// SIGLIP_CHECK: for our own bugs only. No input, file or device may ever reach it.

#include <cstdio>
#include <cstdlib>

#define SIGLIP_CHECK(condition)                                                          \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: check failed: %s. This is a bug.\n", __FILE__, __LINE__, \
                   #condition);                                                          \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)
