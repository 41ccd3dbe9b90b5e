#include "triton/this_backend.h"

namespace siglip::triton {

BackendKind ThisBackend() {
  return {.name = "siglip", .other = "siglip_embed", .doors = false, .open = Model::Open};
}

}  // namespace siglip::triton
