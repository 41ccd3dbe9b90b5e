#include "image/raw_modes.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace siglip {
namespace {

constexpr bool kNativeIsBig = std::endian::native == std::endian::big;

constexpr std::uint8_t ReverseBits(std::uint8_t v) {
  v = static_cast<std::uint8_t>((v >> 4) | (v << 4));
  v = static_cast<std::uint8_t>(((v & 0xCC) >> 2) | ((v & 0x33) << 2));
  return static_cast<std::uint8_t>(((v & 0xAA) >> 1) | ((v & 0x55) << 1));
}

void PutGrey(std::uint8_t value, std::uint8_t* out) { out[0] = out[1] = out[2] = value; }

// Grey of 1, 2 or 4 bits. kReverse: the file's bytes have their bits in the other order.
template <int kBits, bool kInvert, bool kReverse>
void PackedGrey(const std::uint8_t* in, std::size_t width, const Palette&, std::uint8_t* out) {
  constexpr int kMask = (1 << kBits) - 1;
  constexpr int kScale = 255 / kMask;
  constexpr std::size_t kPerByte = 8 / kBits;
  for (std::size_t x = 0; x < width; ++x, out += 3) {
    const int byte = kReverse ? ReverseBits(in[x / kPerByte]) : in[x / kPerByte];
    const int shift = 8 - kBits * (static_cast<int>(x % kPerByte) + 1);
    const int value = ((byte >> shift) & kMask) * kScale;
    PutGrey(static_cast<std::uint8_t>(kInvert ? 255 - value : value), out);
  }
}

template <int kBits, bool kReverse>
void PackedPalette(const std::uint8_t* in, std::size_t width, const Palette& palette,
                   std::uint8_t* out) {
  constexpr int kMask = (1 << kBits) - 1;
  constexpr std::size_t kPerByte = 8 / kBits;
  for (std::size_t x = 0; x < width; ++x, out += 3) {
    const int byte = kReverse ? ReverseBits(in[x / kPerByte]) : in[x / kPerByte];
    const int shift = 8 - kBits * (static_cast<int>(x % kPerByte) + 1);
    std::memcpy(out, palette.rgb[(byte >> shift) & kMask], 3);
  }
}

// Bytes of kStep, the grey value at kAt.
template <int kStep, int kAt, bool kInvert = false, bool kReverse = false>
void ByteGrey(const std::uint8_t* in, std::size_t width, const Palette&, std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x, in += kStep, out += 3) {
    std::uint8_t value = kReverse ? ReverseBits(in[kAt]) : in[kAt];
    if (kInvert) value = static_cast<std::uint8_t>(~value);
    PutGrey(value, out);
  }
}

// "1;8" and "1|L": any value but 0 is white.
void ByteBilevel(const std::uint8_t* in, std::size_t width, const Palette&, std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x, out += 3) PutGrey(in[x] != 0 ? 255 : 0, out);
}

template <int kStep, bool kReverse = false>
void BytePalette(const std::uint8_t* in, std::size_t width, const Palette& palette,
                 std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x, in += kStep, out += 3) {
    std::memcpy(out, palette.rgb[kReverse ? ReverseBits(*in) : *in], 3);
  }
}

// Pixels of kStep bytes with red, green, blue at the given places.
template <int kStep, int kR, int kG, int kB, bool kReverse = false>
void Colors(const std::uint8_t* in, std::size_t width, const Palette&, std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x, in += kStep, out += 3) {
    out[0] = kReverse ? ReverseBits(in[kR]) : in[kR];
    out[1] = kReverse ? ReverseBits(in[kG]) : in[kG];
    out[2] = kReverse ? ReverseBits(in[kB]) : in[kB];
  }
}

// Colours multiplied by alpha: divided out, rounded down. kSize bytes a sample, its high byte at
// kHigh.
template <int kStep, int kSize = 1, int kHigh = 0>
void AssociatedAlpha(const std::uint8_t* in, std::size_t width, const Palette&, std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x, in += kStep, out += 3) {
    const int alpha = in[3 * kSize + kHigh];
    for (int c = 0; c < 3; ++c) {
      const int value = in[c * kSize + kHigh];
      out[c] = static_cast<std::uint8_t>(alpha == 0 ? 0 : std::min(value * 255 / alpha, 255));
    }
  }
}

template <bool kSixBitGreen>
void Packed16(const std::uint8_t* in, std::size_t width, const Palette&, std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x, in += 2, out += 3) {
    const int pixel = in[0] | in[1] << 8;
    out[2] = static_cast<std::uint8_t>((pixel & 31) * 255 / 31);
    out[1] = static_cast<std::uint8_t>(kSixBitGreen ? ((pixel >> 5) & 63) * 255 / 63
                                                    : ((pixel >> 5) & 31) * 255 / 31);
    out[0] = static_cast<std::uint8_t>(((pixel >> (kSixBitGreen ? 11 : 10)) & 31) * 255 / 31);
  }
}

template <int kStep, int kSize = 1, int kHigh = 0>
void Cmyk(const std::uint8_t* in, std::size_t width, const Palette&, std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x, in += kStep, out += 3) {
    const std::uint8_t pixel[4] = {in[kHigh], in[kSize + kHigh], in[2 * kSize + kHigh],
                                   in[3 * kSize + kHigh]};
    CmykToRgb(pixel, 1, out);
  }
}

void YCbCr(const std::uint8_t* in, std::size_t width, const Palette&, std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x) YCbCrToRgb(in + 3 * x, out + 3 * x);
}

template <class Stored, bool kIsBig>
Stored ReadSample(const std::uint8_t* in) {
  std::uint8_t bytes[sizeof(Stored)];
  std::memcpy(bytes, in, sizeof(Stored));
  if (kIsBig != kNativeIsBig) std::reverse(bytes, bytes + sizeof(Stored));
  Stored value;
  std::memcpy(&value, bytes, sizeof(Stored));
  return value;
}

// Modes I, I;16 and F: clipped to 0..255, floats truncated, NaN is 0.
template <class Stored, bool kIsBig, class Mode = std::int32_t>
void Wide(const std::uint8_t* in, std::size_t width, const Palette&, std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x, in += sizeof(Stored), out += 3) {
    const Mode value = static_cast<Mode>(ReadSample<Stored, kIsBig>(in));
    PutGrey(value >= Mode{255} ? 255 : (value > Mode{0} ? static_cast<std::uint8_t>(value) : 0),
            out);
  }
}

void Reversed16(const std::uint8_t* in, std::size_t width, const Palette&, std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x, in += 2, out += 3) {
    PutGrey(ClipI16(static_cast<std::uint32_t>(ReverseBits(in[0]) | ReverseBits(in[1]) << 8)), out);
  }
}

// Two pixels in three bytes, most significant bit first.
void Packed12(const std::uint8_t* in, std::size_t width, const Palette&, std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x, out += 3) {
    const std::uint8_t* at = in + x / 2 * 3;
    const unsigned value = x % 2 == 0 ? (static_cast<unsigned>(at[0]) << 4 | at[1] >> 4)
                                      : ((at[1] & 15U) << 8 | at[2]);
    PutGrey(ClipI16(value), out);
  }
}

constexpr int kHighNative = kNativeIsBig ? 0 : 1;

constexpr std::array kRawModes = {
    RawMode{"1", "1", 1, PackedGrey<1, false, false>},
    RawMode{"1", "1;I", 1, PackedGrey<1, true, false>},
    RawMode{"1", "1;R", 1, PackedGrey<1, false, true>},
    RawMode{"1", "1;IR", 1, PackedGrey<1, true, true>},
    RawMode{"1", "1;8", 8, ByteBilevel},
    RawMode{"1", "L", 8, ByteBilevel},
    RawMode{"L", "L;2", 2, PackedGrey<2, false, false>},
    RawMode{"L", "L;2I", 2, PackedGrey<2, true, false>},
    RawMode{"L", "L;2R", 2, PackedGrey<2, false, true>},
    RawMode{"L", "L;2IR", 2, PackedGrey<2, true, true>},
    RawMode{"L", "L;4", 4, PackedGrey<4, false, false>},
    RawMode{"L", "L;4I", 4, PackedGrey<4, true, false>},
    RawMode{"L", "L;4R", 4, PackedGrey<4, false, true>},
    RawMode{"L", "L;4IR", 4, PackedGrey<4, true, true>},
    RawMode{"L", "L", 8, ByteGrey<1, 0>},
    RawMode{"L", "L;I", 8, ByteGrey<1, 0, true>},
    RawMode{"L", "L;R", 8, ByteGrey<1, 0, false, true>},
    RawMode{"L", "LX", 16, ByteGrey<2, 0>},
    RawMode{"LA", "LA", 16, ByteGrey<2, 0>},
    RawMode{"P", "P;1", 1, PackedPalette<1, false>},
    RawMode{"P", "P;2", 2, PackedPalette<2, false>},
    RawMode{"P", "P;4", 4, PackedPalette<4, false>},
    RawMode{"P", "P", 8, BytePalette<1>},
    RawMode{"P", "P;R", 8, BytePalette<1, true>},
    RawMode{"P", "L", 8, BytePalette<1>},
    RawMode{"P", "PX", 16, BytePalette<2>},
    RawMode{"PA", "PA", 16, BytePalette<2>},
    RawMode{"RGB", "RGB", 24, Colors<3, 0, 1, 2>},
    RawMode{"RGB", "RGB;R", 24, Colors<3, 0, 1, 2, true>},
    RawMode{"RGB", "RGB;16L", 48, Colors<6, 1, 3, 5>},
    RawMode{"RGB", "RGB;16B", 48, Colors<6, 0, 2, 4>},
    RawMode{"RGB", "RGB;16N", 48, Colors<6, kHighNative, 2 + kHighNative, 4 + kHighNative>},
    RawMode{"RGB", "RGBX;16L", 64, Colors<8, 1, 3, 5>},
    RawMode{"RGB", "RGBX;16B", 64, Colors<8, 0, 2, 4>},
    RawMode{"RGB", "RGBX;16N", 64, Colors<8, kHighNative, 2 + kHighNative, 4 + kHighNative>},
    RawMode{"RGB", "BGR", 24, Colors<3, 2, 1, 0>},
    RawMode{"RGB", "BGR;15", 16, Packed16<false>},
    RawMode{"RGB", "BGR;16", 16, Packed16<true>},
    RawMode{"RGB", "RGBX", 32, Colors<4, 0, 1, 2>},
    RawMode{"RGB", "RGBXX", 40, Colors<5, 0, 1, 2>},
    RawMode{"RGB", "RGBXXX", 48, Colors<6, 0, 1, 2>},
    RawMode{"RGB", "BGRX", 32, Colors<4, 2, 1, 0>},
    RawMode{"RGB", "BGXR", 32, Colors<4, 3, 1, 0>},
    RawMode{"RGB", "XBGR", 32, Colors<4, 3, 2, 1>},
    RawMode{"RGBA", "RGBA", 32, Colors<4, 0, 1, 2>},
    RawMode{"RGBA", "RGBAX", 40, Colors<5, 0, 1, 2>},
    RawMode{"RGBA", "RGBAXX", 48, Colors<6, 0, 1, 2>},
    RawMode{"RGBA", "BGRA", 32, Colors<4, 2, 1, 0>},
    RawMode{"RGBA", "ABGR", 32, Colors<4, 3, 2, 1>},
    RawMode{"RGBA", "BGAR", 32, Colors<4, 3, 1, 0>},
    RawMode{"RGBA", "RGBA;16L", 64, Colors<8, 1, 3, 5>},
    RawMode{"RGBA", "RGBA;16B", 64, Colors<8, 0, 2, 4>},
    RawMode{"RGBA", "RGBA;16N", 64, Colors<8, kHighNative, 2 + kHighNative, 4 + kHighNative>},
    RawMode{"RGBA", "RGBa", 32, AssociatedAlpha<4>},
    RawMode{"RGBA", "RGBaX", 40, AssociatedAlpha<5>},
    RawMode{"RGBA", "RGBaXX", 48, AssociatedAlpha<6>},
    RawMode{"RGBA", "RGBa;16L", 64, AssociatedAlpha<8, 2, 1>},
    RawMode{"RGBA", "RGBa;16B", 64, AssociatedAlpha<8, 2, 0>},
    RawMode{"RGBA", "RGBa;16N", 64, AssociatedAlpha<8, 2, kHighNative>},
    RawMode{"CMYK", "CMYK", 32, Cmyk<4>},
    RawMode{"CMYK", "CMYKX", 40, Cmyk<5>},
    RawMode{"CMYK", "CMYKXX", 48, Cmyk<6>},
    RawMode{"CMYK", "CMYK;16L", 64, Cmyk<8, 2, 1>},
    RawMode{"CMYK", "CMYK;16B", 64, Cmyk<8, 2, 0>},
    RawMode{"CMYK", "CMYK;16N", 64, Cmyk<8, 2, kHighNative>},
    RawMode{"YCbCr", "YCbCr", 24, YCbCr},
    RawMode{"I", "I;16B", 16, Wide<std::uint16_t, true>},
    RawMode{"I", "I;16S", 16, Wide<std::int16_t, false>},
    RawMode{"I", "I;16BS", 16, Wide<std::int16_t, true>},
    RawMode{"I", "I;32N", 32, Wide<std::uint32_t, kNativeIsBig>},
    RawMode{"I", "I", 32, Wide<std::uint32_t, kNativeIsBig>},
    RawMode{"I", "I;32S", 32, Wide<std::int32_t, false>},
    RawMode{"I", "I;32BS", 32, Wide<std::int32_t, true>},
    RawMode{"F", "F", 32, Wide<float, kNativeIsBig, float>},
    RawMode{"F", "F;32F", 32, Wide<float, false, float>},
    RawMode{"F", "F;32BF", 32, Wide<float, true, float>},
    RawMode{"I;16", "I;16", 16, Wide<std::uint16_t, false>},
    RawMode{"I;16", "I;16N", 16, Wide<std::uint16_t, kNativeIsBig>},
    RawMode{"I;16B", "I;16B", 16, Wide<std::uint16_t, true>},
    RawMode{"I;16B", "I;16N", 16, Wide<std::uint16_t, kNativeIsBig>},
    RawMode{"I;16", "I;16R", 16, Reversed16},
    RawMode{"I;16", "I;12", 12, Packed12},
};

}  // namespace

const RawMode* FindRawMode(std::string_view mode, std::string_view raw) {
  for (const RawMode& row : kRawModes) {
    if (row.mode == mode && row.raw == raw) return &row;
  }
  return nullptr;
}

}  // namespace siglip
