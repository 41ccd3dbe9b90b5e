// Classifies vectors for tests/pytest/light/test_knn.py.
//   knn_dump TRAIN.f32 QUERIES.f32 WIDTH CLASSES K      CLASSES: one number per training row
// Per query one line: neighbour:distance ... | predicted | top 5 | margin

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/file_map.h"
#include "eval/knn_classifier.h"

namespace {

std::vector<float> ReadFloats(const char* path) {
  const auto bytes = siglip::ReadFile(path, std::uint64_t{1} << 34);
  if (!bytes.ok()) {
    std::fprintf(stderr, "%s\n", std::string(bytes.status().message()).c_str());
    std::exit(1);
  }
  std::vector<float> values(bytes->size() / sizeof(float));
  std::memcpy(values.data(), bytes->data(), values.size() * sizeof(float));
  return values;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const std::vector<float> train = ReadFloats(argv[1]);
  const std::vector<float> queries = ReadFloats(argv[2]);
  const std::int64_t width = std::atoll(argv[3]);
  std::ifstream classes(argv[4]);
  const std::vector<int> class_of_row{std::istream_iterator<int>(classes),
                                      std::istream_iterator<int>()};
  const siglip::KnnVotes votes(class_of_row);
  siglip::ThreadTeam team(2);
  siglip::NearestOptions options;
  options.k = std::atoll(argv[5]);
  // Small blocks, so that small tests cross their borders.
  options.train_block = 37;
  options.query_block = 50;
  const auto nearest =
      siglip::NearestByCosine(team, siglip::MemoryRows(train, width), queries, options);
  if (!nearest.ok()) {
    std::fprintf(stderr, "%s\n", std::string(nearest.status().message()).c_str());
    return 1;
  }
  for (std::int64_t q = 0; q < static_cast<std::int64_t>(queries.size()) / width; ++q) {
    for (const siglip::Neighbor& neighbor : nearest->Of(q)) {
      std::printf("%ld:%.17g ", static_cast<long>(neighbor.row), neighbor.distance);
    }
    const auto result = votes.Classify(nearest->Of(q), 5);
    std::printf("| %d |", result.predicted);
    for (const int c : result.top) std::printf(" %d", c);
    std::printf(" | %.17g\n", result.margin);
  }
  return 0;
}
