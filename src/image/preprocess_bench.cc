// The stages of src/image on one core. bench/preprocess.py compares the whole with Pillow.

#include "image/normalize.h"
#include "image/preprocess.h"
#include "image/resize.h"

#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include <jpeglib.h>

#include "benchmark/benchmark.h"

namespace siglip {
namespace {

constexpr int kImageSize = 384;

// Smooth colours with noise in the low bits: compresses like a photograph.
RgbImage Photo(int width, int height) {
  RgbImage image;
  image.width = width;
  image.height = height;
  image.pixels =
      PixelBuffer(static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3);
  std::minstd_rand random(1);
  std::size_t at = 0;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < 3; ++c) {
        const int smooth = (x * (3 + c) / 4 + y * (2 + c) / 3) % 240;
        image.pixels[at++] = static_cast<std::uint8_t>(smooth + static_cast<int>(random() % 12));
      }
    }
  }
  return image;
}

std::string Jpeg(const RgbImage& image) {
  jpeg_compress_struct info = {};
  jpeg_error_mgr error;
  info.err = jpeg_std_error(&error);
  jpeg_create_compress(&info);
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &buffer, &size);
  info.image_width = static_cast<JDIMENSION>(image.width);
  info.image_height = static_cast<JDIMENSION>(image.height);
  info.input_components = 3;
  info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, 90, TRUE);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    auto* row = const_cast<JSAMPLE*>(image.pixels.data()) +
                std::size_t{info.next_scanline} * static_cast<std::size_t>(image.width) * 3;
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  std::string bytes(reinterpret_cast<char*>(buffer), size);
  jpeg_destroy_compress(&info);
  std::free(buffer);
  return bytes;
}

PreprocessOptions Options() {
  PreprocessOptions options;
  options.image_size = kImageSize;
  return options;
}

void Geometries(benchmark::internal::Benchmark* bench) {
  bench->Args({500, 375})
      ->Args({375, 500})
      ->Args({1000, 750})
      ->Args({2000, 1500})
      ->Args({4000, 3000})
      ->Args({200, 150});
}

// One pass each: horizontal, vertical.
void Passes(benchmark::internal::Benchmark* bench) { bench->Args({500, 384})->Args({384, 375}); }

void BM_Resize(benchmark::State& state) {
  const RgbImage image = Photo(static_cast<int>(state.range(0)), static_cast<int>(state.range(1)));
  const Preprocessor preprocessor(Options());
  for (auto _ : state) benchmark::DoNotOptimize(preprocessor.Resize(image));
}
BENCHMARK(BM_Resize)->Apply(Geometries)->Apply(Passes)->Unit(benchmark::kMicrosecond);

void BM_ResampleTable(benchmark::State& state) {
  for (auto _ : state) {
    benchmark::DoNotOptimize(MakeResampleTable(500, kImageSize, Resample::kBicubic));
  }
}
BENCHMARK(BM_ResampleTable)->Unit(benchmark::kMicrosecond);

void BM_DecodeJpeg(benchmark::State& state) {
  const std::string bytes =
      Jpeg(Photo(static_cast<int>(state.range(0)), static_cast<int>(state.range(1))));
  for (auto _ : state) benchmark::DoNotOptimize(DecodeRgb(bytes, kPillowMaxPixels));
}
BENCHMARK(BM_DecodeJpeg)->Apply(Geometries)->Unit(benchmark::kMicrosecond);

void BM_Normalize(benchmark::State& state) {
  const RgbImage image = Photo(kImageSize, kImageSize);
  const Preprocessor preprocessor(Options());
  std::vector<float> pixels(std::size_t{3} * kImageSize * kImageSize);
  for (auto _ : state) {
    preprocessor.Normalize(image, pixels.data());
    benchmark::DoNotOptimize(pixels.data());
    benchmark::ClobberMemory();
  }
}
BENCHMARK(BM_Normalize)->Unit(benchmark::kMicrosecond);

void BM_PreprocessJpeg(benchmark::State& state) {
  const std::string bytes =
      Jpeg(Photo(static_cast<int>(state.range(0)), static_cast<int>(state.range(1))));
  const Preprocessor preprocessor(Options());
  std::vector<float> pixels(std::size_t{3} * kImageSize * kImageSize);
  for (auto _ : state) {
    benchmark::DoNotOptimize(preprocessor.Preprocess(bytes, pixels.data()));
  }
}
BENCHMARK(BM_PreprocessJpeg)->Apply(Geometries)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace siglip

BENCHMARK_MAIN();
