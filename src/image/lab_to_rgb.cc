#include "image/lab_to_rgb.h"

#include <memory>

#include <lcms2.h>

namespace siglip {
namespace {

struct CloseProfile {
  using pointer = cmsHPROFILE;
  void operator()(cmsHPROFILE profile) const { cmsCloseProfile(profile); }
};
struct DeleteTransform {
  using pointer = cmsHTRANSFORM;
  void operator()(cmsHTRANSFORM transform) const { cmsDeleteTransform(transform); }
};

}  // namespace

absl::Status LabToRgb(const std::uint8_t* lab, std::size_t pixels, std::uint8_t* rgb) {
  // Source: Pillow 13.0.0 src/_imagingcms.c: a version-2 LAB profile to littleCMS' own sRGB,
  // perceptual.
  const std::unique_ptr<void, CloseProfile> from(cmsCreateLab2Profile(nullptr));
  const std::unique_ptr<void, CloseProfile> to(cmsCreate_sRGBProfile());
  if (from == nullptr || to == nullptr)
    return absl::ResourceExhaustedError("LAB: no memory for profiles");
  constexpr cmsUInt32Number kLab8 =
      COLORSPACE_SH(PT_LabV2) | CHANNELS_SH(3) | BYTES_SH(1) | EXTRA_SH(1);
  const std::unique_ptr<void, DeleteTransform> transform(
      cmsCreateTransform(from.get(), kLab8, to.get(), TYPE_RGB_8, INTENT_PERCEPTUAL, 0));
  if (transform == nullptr) return absl::ResourceExhaustedError("LAB: no memory for the transform");
  while (pixels > 0) {
    const auto count = static_cast<cmsUInt32Number>(pixels < 65536 ? pixels : 65536);
    cmsDoTransform(transform.get(), lab, rgb, count);
    lab += std::size_t{count} * 4;
    rgb += std::size_t{count} * 3;
    pixels -= count;
  }
  return absl::OkStatus();
}

}  // namespace siglip
