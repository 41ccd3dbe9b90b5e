#pragma once

// Times of repetitions, and how they are summed up.

#include <vector>

namespace siglip::cli {

// Seconds of one repetition each.
struct Samples {
  std::vector<double> seconds;

  // p in 0..1; nearest rank. REQUIRES: not empty.
  double Quantile(double p) const;
  double Best() const { return Quantile(0); }
  double Median() const { return Quantile(0.5); }
};

// Calls work() for at least `min_seconds` and at least three times, after one call that is not
// counted.
template <class Work>
Samples Measure(double min_seconds, const Work& work);

// User plus system seconds that this process has used.
double ProcessCpuSeconds();

// Seconds of a steady clock.
double NowSeconds();

template <class Work>
Samples Measure(double min_seconds, const Work& work) {
  work();
  Samples samples;
  const double start = NowSeconds();
  double last = start;
  while (samples.seconds.size() < 3 || last - start < min_seconds) {
    work();
    const double now = NowSeconds();
    samples.seconds.push_back(now - last);
    last = now;
  }
  return samples;
}

}  // namespace siglip::cli
