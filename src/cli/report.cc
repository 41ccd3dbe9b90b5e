#include "cli/report.h"

#include <iostream>

namespace siglip::cli {

int Fail(const absl::Status& status) {
  std::cerr << "error: " << status.message() << '\n';
  return kFailure;
}

}  // namespace siglip::cli
