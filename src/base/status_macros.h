#pragma once

// Early return on failure: the only macros here that hide control flow.

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define SIGLIP_RETURN_IF_ERROR(expr)                      \
  do {                                                    \
    if (absl::Status siglip_status_ = (expr); !siglip_status_.ok()) { \
      return siglip_status_;                              \
    }                                                     \
  } while (false)

#define SIGLIP_CONCAT_INNER_(a, b) a##b
#define SIGLIP_CONCAT_(a, b) SIGLIP_CONCAT_INNER_(a, b)

// SIGLIP_ASSIGN_OR_RETURN(auto x, StatusOrExpr()): declares or assigns x, or returns the status.
#define SIGLIP_ASSIGN_OR_RETURN(lhs, expr) \
  SIGLIP_ASSIGN_OR_RETURN_IMPL_(SIGLIP_CONCAT_(siglip_or_, __LINE__), lhs, expr)
#define SIGLIP_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                  \
  if (!tmp.ok()) return tmp.status();                 \
  lhs = *std::move(tmp)
