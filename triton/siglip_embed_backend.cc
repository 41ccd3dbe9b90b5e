#include "api/front_model.h"
#include "triton/this_backend.h"

namespace siglip::triton {

BackendKind ThisBackend() {
  return {.name = "siglip_embed", .other = "siglip", .doors = true, .open = OpenFrontModel};
}

}  // namespace siglip::triton
